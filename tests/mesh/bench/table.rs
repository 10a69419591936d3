//! What was found, for the terminal. `make report` makes the pages of it.

use mesh_tests::bench_report::{Changes, Cost, HAND_WRITTEN, Quantiles, WAYS, Way, Ways};
use std::fmt::Write;

/// All ways in a mesh of so many services, one below the other; the parts are those of the hand-written one's.
pub(super) fn of(services: u32, ways: &Ways) -> String {
    let mut out = format!("\n{services} services\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!(
        "{:13} {:>8} {:>6} {:>8} {:>6} {:>9} {:>6} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "",
        "heap MB",
        "part",
        "RSS MB",
        "part",
        "to it kB",
        "part",
        "istiod kB",
        "clusters",
        "endpoints",
        "listeners",
        "v. hosts",
        "ready ms",
        "learns ms"
    ));
    let hand = ways.get(HAND_WRITTEN);
    for (name, way) in shown(ways) {
        let part = |value: fn(&Way) -> Option<u64>| {
            let parts = hand.and_then(value).zip(value(way));
            text(parts.map(|(hand, own)| own as f64 / hand as f64), 3)
        };
        let in_units =
            |value: Option<u64>, unit: f64, digits| text(value.map(|v| v as f64 / unit), digits);
        let count = |value: Option<u64>| in_units(value, 1.0, 0);
        line(format!(
            "{name:13} {:>8} {:>6} {:>8} {:>6} {:>9} {:>6} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9}",
            in_units(way.heap_bytes, 1e6, 2),
            part(|way| way.heap_bytes),
            in_units(way.rss_bytes, 1e6, 1),
            part(|way| way.rss_bytes),
            in_units(way.bytes_to_sidecar, 1e3, 1),
            part(|way| way.bytes_to_sidecar),
            in_units(way.bytes_from_istiod, 1e3, 1),
            count(way.clusters),
            count(way.endpoints),
            count(way.listeners),
            count(way.virtual_hosts),
            text(way.ready_ms, 0),
            text(way.learning_ms, 0),
        ));
    }
    for (name, way) in shown(ways) {
        if let Some(calls) = calls(way) {
            line(format!("{name:13} {calls}"));
        }
    }
    for (name, way) in shown(ways) {
        for (change, cost) in changes(way.changes.as_ref()) {
            line(format!("{name:13} {change:16} {cost}"));
        }
    }
    out
}

fn shown(ways: &Ways) -> impl Iterator<Item = (&'static str, &Way)> {
    WAYS.into_iter()
        .filter_map(|name| Some((name, ways.get(name)?)))
}

fn text(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn calls(way: &Way) -> Option<String> {
    let mut out = String::new();
    for (what, calls) in [
        ("first HTTP", &way.first_call_ms),
        ("later HTTP", &way.later_call_ms),
        ("first TCP", &way.first_call_tcp_ms),
        ("later TCP", &way.later_call_tcp_ms),
    ] {
        let Quantiles { p50, p90, p99 } = calls.as_ref()?;
        let (p50, p90, p99) = (text(*p50, 1), text(*p90, 1), text(*p99, 1));
        let _ = write!(out, "{what} {p50}/{p90}/{p99} ms  ");
    }
    let steady = way.steady.as_ref()?;
    let (rps, p50, p99) = (steady.rps, steady.p50_ms, steady.p99_ms);
    let (rps, p50, p99) = (text(rps, 0), text(p50, 2), text(p99, 2));
    let _ = write!(out, "steady {rps}/s, {p50}/{p99} ms");
    Some(out)
}

fn changes(changes: Option<&Changes>) -> Vec<(&'static str, String)> {
    let Some(changes) = changes else {
        return Vec::new();
    };
    let all = [
        ("endpoint", &changes.endpoint),
        ("unused endpoint", &changes.unused_endpoint),
        ("new service", &changes.new_service),
        ("full push", &changes.full_push),
    ];
    let cost = |cost: &Cost| {
        let bytes = |bytes: Option<u64>| text(bytes.map(|bytes| bytes as f64 / 1e3), 1);
        format!(
            "istiod {} ms, shim {} ms, sidecar {} ms; {} kB from istiod, {} kB to it",
            text(cost.istiod_cpu_ms, 1),
            text(cost.shim_cpu_ms, 1),
            text(cost.sidecar_cpu_ms, 1),
            bytes(cost.bytes_from_istiod),
            bytes(cost.bytes_to_sidecar),
        )
    };
    let all = all.into_iter();
    all.filter_map(|(name, change)| Some((name, cost(change.as_ref()?))))
        .collect()
}
