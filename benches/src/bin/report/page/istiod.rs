//! One istiod, many sidecars.

use mesh_tests::bench_report::istiod::{IstiodReport, OfSize, Spent, Streams};

use crate::markdown::table;
use crate::show::{Unit, count, seconds};

/// What `make bench-istiod` found.
pub(super) fn section(found: Option<&IstiodReport>) -> String {
    let mut out = String::from("\n## One istiod, many sidecars\n\n");
    let Some(found) = found else {
        return out + "Not measured (`make bench-istiod`).\n";
    };
    out += "Simulated sidecars, a delta stream each. *settled*: each workload has a `Sidecar` with three services. CPU and \
            bytes are istiod's, for all streams together.\n\n";
    let head = [
        "services",
        "sidecars",
        "resident set",
        "at most",
        "all connected: CPU",
        "full push: CPU",
        "bytes",
        "last one after",
        "endpoint that is used: CPU",
        "unused",
        "new service",
    ];
    let sizes = found.sizes.iter();
    let rows: Vec<_> = sizes.flat_map(|(size, of)| rows(*size, of)).collect();
    out + &table(&head.map(str::to_owned), &rows, 2)
}

fn rows(services: u32, of: &OfSize) -> Vec<Vec<String>> {
    let ways = [("settled", &of.settled), ("plain", &of.plain)];
    let some = ways.into_iter().flat_map(|(way, all)| {
        let title = move |number: &u32| format!("{} {way}", count(f64::from(*number)));
        all.iter()
            .map(move |(number, streams)| (title(number), streams))
    });
    let all = std::iter::once(("none".to_owned(), &of.alone)).chain(some);
    all.map(|(title, streams)| row(services, title, streams))
        .collect()
}

fn row(services: u32, title: String, streams: &Streams) -> Vec<String> {
    let cpu = |spent: &Spent| Unit::Milliseconds.show(spent.istiod_cpu_ms);
    let bytes = |bytes: u64| Unit::Bytes.show(bytes as f64);
    let push = &streams.full_push;
    let dash = || "-".to_owned();
    vec![
        count(f64::from(services)),
        title,
        bytes(streams.rss_bytes),
        bytes(streams.peak_rss_bytes),
        streams.connect.as_ref().map_or_else(dash, cpu),
        cpu(push),
        bytes(push.bytes),
        push.last_ms.map_or_else(dash, |ms| seconds(ms / 1e3)),
        cpu(&streams.endpoint),
        cpu(&streams.unused_endpoint),
        cpu(&streams.new_service),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_row_for_each_number_of_streams() {
        let streams = |cpu: f64| Streams {
            rss_bytes: 300_000_000,
            full_push: Spent {
                istiod_cpu_ms: cpu,
                bytes: 15_000_000,
                last_ms: Some(1500.0),
            },
            ..Streams::default()
        };
        let of = OfSize {
            alone: streams(100.0),
            plain: BTreeMap::from([(10, streams(4000.0))]),
            settled: BTreeMap::from([(10, streams(200.0))]),
        };
        let report = IstiodReport {
            sizes: BTreeMap::from([(5000, of)]),
            ..IstiodReport::default()
        };
        let text = section(Some(&report));
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("| 5,000"))
            .collect();
        let begins =
            ["none", "10 settled", "10 plain"].map(|title| format!("| 5,000 | {title} | 300 MB |"));
        for (row, begin) in rows.iter().zip(&begins) {
            assert!(row.starts_with(begin.as_str()), "{row}");
        }
        assert_eq!(rows.len(), 3);
        assert!(
            rows[2].contains("4,000 ms | 15.0 MB | 1.50 s"),
            "{}",
            rows[2]
        );
        assert!(section(None).contains("Not measured"));
    }
}
