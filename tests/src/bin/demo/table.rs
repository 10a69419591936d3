//! The table at the end, and how figures are written.

use crate::report::{PerProtocol, Report};

/// The table, a line each.
#[allow(clippy::cast_precision_loss)] // for people, who do not read 2^53
pub(crate) fn lines(
    report: &Report,
    plain_first: PerProtocol,
    plain_later: PerProtocol,
) -> Vec<String> {
    let (plain, lazy) = (&report.plain, &report.lazy);
    let row = |name: &str, plain: String, lazy: String, share: String| {
        format!("{name:<26}{plain:>12}{lazy:>12}{share:>10}")
    };
    let share = |plain: f64, lazy: f64| format!("{:.1} %", 100.0 * lazy / plain);
    let bytes = |name: &str, plain: u64, lazy: u64| {
        row(
            name,
            megabytes(plain),
            megabytes(lazy),
            share(plain as f64, lazy as f64),
        )
    };
    let time = |name: &str, plain: f64, lazy: f64| {
        row(
            name,
            format!("{plain:.1} ms"),
            format!("{lazy:.1} ms"),
            String::new(),
        )
    };
    vec![
        row(
            "",
            "plain".to_owned(),
            "lazy".to_owned(),
            "share".to_owned(),
        ),
        bytes("config received", plain.config_bytes, lazy.config_bytes),
        row(
            "clusters",
            plain.clusters.to_string(),
            lazy.clusters.to_string(),
            share(plain.clusters as f64, lazy.clusters as f64),
        ),
        bytes("Envoy heap", plain.heap_bytes, lazy.heap_bytes),
        bytes("Envoy RSS", plain.rss_bytes, lazy.rss_bytes),
        row(
            "time to ready",
            format!("{:.0} ms", plain.ready_ms),
            format!("{:.0} ms", lazy.ready_ms),
            share(plain.ready_ms, lazy.ready_ms),
        ),
        time(
            "first HTTP call (median)",
            plain_first.http,
            report.first_call_ms.http,
        ),
        time(
            "later HTTP call (median)",
            plain_later.http,
            report.later_call_ms.http,
        ),
        time(
            "first TCP call (median)",
            plain_first.tcp,
            report.first_call_ms.tcp,
        ),
        time(
            "later TCP call (median)",
            plain_later.tcp,
            report.later_call_ms.tcp,
        ),
        row(
            "first call, warm start",
            String::new(),
            format!("{:.1} ms", report.warm_start_first_call_ms),
            String::new(),
        ),
    ]
}

/// `12.3 MB`, of a million bytes each.
#[allow(clippy::cast_precision_loss)] // for people
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
