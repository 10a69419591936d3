use super::*;

fn way(heap_bytes: u64, ready_ms: f64) -> Way {
    Way {
        heap_bytes: Some(heap_bytes),
        ready_ms: Some(ready_ms),
        ..Way::default()
    }
}

#[test]
fn fields_may_be_missing_or_null() {
    let text = r#"{
        "machine": {"cores": 2, "cpu": null},
        "versions": null,
        "sizes": {
            "1000": {"plain": {"heap_bytes": 7, "first_call_ms": {"p50": 1.5}, "spread": null}},
            "200": {"other": {"steady": null, "spread": {"heap_bytes": [6, 8.5]}}}
        }
    }"#;
    let report: Report = serde_json::from_str(text).unwrap();
    assert_eq!(report.machine.cores, Some(2));
    assert_eq!(
        report.sizes.keys().copied().collect::<Vec<_>>(),
        [200, 1000]
    );
    let plain = &report.sizes[&1000][PLAIN];
    assert_eq!(plain.heap_bytes, Some(7));
    assert_eq!(plain.first_call_ms.as_ref().and_then(|q| q.p50), Some(1.5));
    assert_eq!(plain.rss_bytes, None);
    assert_eq!(report.sizes[&200]["other"].spread["heap_bytes"], [6.0, 8.5]);
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench/report.json");
    assert_eq!(Report::read(&path).unwrap(), None);
    let mut report = Report {
        commit: Some("abc".into()),
        repetitions: Some(5),
        ..Report::default()
    };
    let ways = report.sizes.entry(1000).or_default();
    ways.insert(ON_DEMAND.into(), way(3, 2.25));
    report.write(&path).unwrap();
    assert_eq!(Report::read(&path).unwrap(), Some(report));
    fs::write(&path, "[]").unwrap();
    let error = Report::read(&path).unwrap_err();
    assert!(format!("{error:#}").contains("report.json is no report"));
}

#[test]
fn medians_are_of_each_field_and_say_the_spread() {
    let mut steady = way(30, 1.0);
    steady.steady = Some(Steady {
        rps: Some(100.0),
        ..Steady::default()
    });
    steady.spread.insert("heap_bytes".into(), [0.0, 99.0]);
    let found = Way::medians(&[way(10, 4.0), steady, way(11, 2.0)]).unwrap();
    assert_eq!((found.heap_bytes, found.ready_ms), (Some(11), Some(2.0)));
    assert_eq!(found.steady.and_then(|s| s.rps), Some(100.0));
    assert_eq!(found.rss_bytes, None);
    let spread = [
        ("heap_bytes", [10.0, 30.0]),
        ("ready_ms", [1.0, 4.0]),
        ("steady.rps", [100.0, 100.0]),
    ];
    assert_eq!(found.spread, spread.map(|(n, s)| (n.to_owned(), s)).into());
}

#[test]
fn the_median_of_two_is_between_them() {
    let found = Way::medians(&[way(10, 1.0), way(13, 2.0)]).unwrap();
    assert_eq!((found.heap_bytes, found.ready_ms), (Some(12), Some(1.5)));
    assert_eq!(Way::medians(&[]).unwrap(), Way::default());
}
