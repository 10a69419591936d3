//! The table at the end, and how figures are written.

use crate::report::{Costs, PerProtocol, Report};

/// The table, a line each.
#[allow(clippy::cast_precision_loss)] // for people, who do not read 2^53
pub(crate) fn lines(
    report: &Report,
    plain_first: PerProtocol,
    plain_later: PerProtocol,
) -> Vec<String> {
    let all = [&report.plain, &report.lazy, &report.sidecar.costs];
    let figure = |name: &str, of: fn(&Costs) -> f64, shown: fn(f64) -> String| {
        let share = |costs: &Costs| format!("{:.1} %", 100.0 * of(costs) / of(&report.plain));
        let [plain, lazy, sidecar] = all.map(|costs| shown(of(costs)));
        row(name, [plain, lazy, share(all[1]), sidecar, share(all[2])])
    };
    let time = |name: &str, of: fn(&PerProtocol) -> f64, first: bool| {
        let (growing, plain) = (
            &report.sidecar,
            if first { plain_first } else { plain_later },
        );
        let (lazy, sidecar) = if first {
            (&report.first_call_ms, &growing.first_call_ms)
        } else {
            (&report.later_call_ms, &growing.later_call_ms)
        };
        let [plain, lazy, sidecar] = [&plain, lazy, sidecar].map(|times| milliseconds(of(times)));
        row(name, [plain, lazy, String::new(), sidecar, String::new()])
    };
    let warm = milliseconds(report.warm_start_first_call_ms);
    let none = String::new;
    vec![
        row(
            "",
            ["plain", "on-demand", "share", "sidecar", "share"].map(str::to_owned),
        ),
        figure("config received", |costs| costs.config_bytes as f64, size),
        figure(
            "clusters",
            |costs| costs.clusters as f64,
            |count| format!("{count:.0}"),
        ),
        figure("Envoy heap", |costs| costs.heap_bytes as f64, size),
        figure("Envoy RSS", |costs| costs.rss_bytes as f64, size),
        figure(
            "time to ready",
            |costs| costs.ready_ms,
            |time| format!("{time:.0} ms"),
        ),
        time("first HTTP call (median)", |times| times.http, true),
        time("later HTTP call (median)", |times| times.http, false),
        time("first TCP call (median)", |times| times.tcp, true),
        time("later TCP call (median)", |times| times.tcp, false),
        row(
            "first call, warm start",
            [none(), warm, none(), none(), none()],
        ),
    ]
}

fn row(name: &str, [plain, lazy, share, sidecar, other]: [String; 5]) -> String {
    let line = format!("{name:<26}{plain:>10}{lazy:>11}{share:>9}{sidecar:>10}{other:>9}");
    line.trim_end().to_owned()
}

fn milliseconds(time: f64) -> String {
    format!("{time:.1} ms")
}

/// `12.3 MB`, of a million bytes each, or kB below a tenth of one.
#[allow(clippy::cast_precision_loss)] // for people
pub(crate) fn megabytes(bytes: u64) -> String {
    size(bytes as f64)
}

fn size(bytes: f64) -> String {
    if bytes < 1e5 {
        return format!("{:.1} kB", bytes / 1e3);
    }
    format!("{:.1} MB", bytes / 1e6)
}
