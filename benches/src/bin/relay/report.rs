//! What was found: as JSON, as a table, and which of the claims hold.

use std::path::Path;

use anyhow::{Context, Result};
use mesh_benches::claims::Claim;
use serde_json::{Value, json};

use crate::measure::{Figures, Rounds, medians};
use crate::soak::Soak;

/// The claims about the cases.
pub(crate) fn claims_of_rounds(rounds: &Rounds) -> Vec<Claim> {
    let name = rounds.case.name();
    let carried = rounds.ratio(|one| one.requests_per_cpu_s);
    // Of a closed loop that uploads, a few requests straddle two large writes and take two turns, where most take less
    // than Envoy's: what is usual is judged, and the table shows the rest (docs/facts.md).
    let (latency, took) = if rounds.case.request_bytes == 0 {
        ("p99", rounds.ratio(|one| one.p99_ms))
    } else {
        ("median", rounds.ratio(|one| one.p50_ms))
    };
    vec![
        Claim {
            claim: format!("{name}: at equal CPU at least as many requests as Envoy"),
            holds: carried >= 1.0,
            shown: format!("{carried:.2} times"),
        },
        Claim {
            claim: format!("{name}: a {latency} no worse than Envoy's"),
            holds: took <= 1.0,
            shown: format!("{took:.2} times"),
        },
    ]
}

/// Something to be known of what was measured, if there is.
pub(crate) fn warning(all: &[Rounds]) -> Option<&'static str> {
    let figures = |rounds: &Rounds| [medians(&rounds.ours), medians(&rounds.envoy)];
    let held_up = all.iter().flat_map(figures).any(|one| one.busy < 0.8);
    held_up.then_some(
        "note: the relays did not have their core for themselves, or were waiting for the load. Requests per second \
         of CPU say what they carry; latencies are those of a busy machine.",
    )
}

/// The claims about the soak.
pub(crate) fn claims_of_soak(soak: &Soak) -> Vec<Claim> {
    let from_to = |of: fn(&crate::soak::Sample) -> u64| {
        let (first, last) = (soak.series.first(), soak.series.last());
        let show = |sample: Option<&crate::soak::Sample>| sample.map(of).unwrap_or_default();
        format!("{} to {}", show(first), show(last))
    };
    let over = format!("over {} requests", soak.requests);
    vec![
        Claim {
            claim: format!("descriptors stay flat {over}"),
            holds: soak.descriptors_flat,
            shown: from_to(|sample| sample.descriptors),
        },
        Claim {
            claim: format!("memory stays flat {over}"),
            holds: soak.memory_flat,
            shown: from_to(|sample| sample.rss_bytes >> 10) + " KiB",
        },
    ]
}

/// The table of the cases.
pub(crate) fn table(all: &[Rounds]) -> String {
    let mut out = format!(
        "{:<32} {:<13} {:>9} {:>12} {:>9} {:>9} {:>6} {:>8}\n",
        "case", "relay", "req/s", "req/CPU s", "p50 ms", "p99 ms", "busy", "RSS MB"
    );
    for rounds in all {
        let name = rounds.case.name();
        out += &row(&name, "global-proxy", &medians(&rounds.ours));
        out += &row("", "Envoy", &medians(&rounds.envoy));
        out += &format!(
            "{:<32} {:<13} {:>9.2} {:>12.2} {:>9.2} {:>9.2}\n",
            "",
            "ratio",
            rounds.ratio(|one| one.rps),
            rounds.ratio(|one| one.requests_per_cpu_s),
            rounds.ratio(|one| one.p50_ms),
            rounds.ratio(|one| one.p99_ms),
        );
    }
    out
}

fn row(case: &str, relay: &str, figures: &Figures) -> String {
    format!(
        "{case:<32} {relay:<13} {:>9.0} {:>12.0} {:>9.3} {:>9.3} {:>5.0}% {:>8.1}\n",
        figures.rps,
        figures.requests_per_cpu_s,
        figures.p50_ms,
        figures.p99_ms,
        figures.busy * 100.0,
        figures.rss_mb,
    )
}

/// Writes all of it down.
pub(crate) fn write(
    path: &Path,
    all: &[Rounds],
    soak: Option<&Soak>,
    claims: &[Claim],
    settings: &Value,
) -> Result<()> {
    let (downloads, uploads): (Vec<_>, Vec<_>) =
        all.iter().partition(|one| one.case.request_bytes == 0);
    let cases = |some: Vec<&Rounds>| some.into_iter().map(case).collect::<Vec<_>>();
    let document = json!({
        "settings": settings,
        "cases": cases(downloads),
        "uploads": cases(uploads),
        "soak": soak,
        "claims": claims,
    });
    let text = serde_json::to_string_pretty(&document)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

fn case(rounds: &Rounds) -> Value {
    json!({
        "protocol": rounds.case.protocol.as_str(),
        "request_bytes": rounds.case.request_bytes,
        "body_bytes": rounds.case.body_bytes,
        "ours": medians(&rounds.ours),
        "envoy": medians(&rounds.envoy),
        "ratio": {
            "rps": rounds.ratio(|one| one.rps),
            "requests_per_cpu_s": rounds.ratio(|one| one.requests_per_cpu_s),
            "p50_ms": rounds.ratio(|one| one.p50_ms),
            "p99_ms": rounds.ratio(|one| one.p99_ms),
        },
        "rounds": {"ours": rounds.ours, "envoy": rounds.envoy},
    })
}
