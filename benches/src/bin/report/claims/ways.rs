//! Claims about one sidecar, each a ratio in one run of `make bench`.

use mesh_tests::bench_report::{HAND_WRITTEN, ON_DEMAND, PLAIN, SETTLED, SIDECAR, WAYS};

use super::{Claim, Verdict};
use crate::found::{Found, Size, title};
use crate::show::{NOT_MEASURED, Unit, count, exact_ratio, ratio};

#[cfg(test)]
mod tests;

/// The sizes at which all of it is to be measured. Others count as well, once they are.
const SIZES: [u32; 3] = [200, 1000, 5000];
const LAZY: [&str; 3] = [SIDECAR, ON_DEMAND, SETTLED];
const MOST_MEMORY: f64 = 1.03;
const MOST_BYTES: f64 = 1.10;
const MOST_READY: f64 = 1.5;
/// So much later is no matter, whatever the ratio.
const MORE_READY_MS: f64 = 100.0;
const MOST_FIRST_P50_MS: f64 = 5.0;
const MOST_FIRST_P99_MS: f64 = 20.0;
const MOST_SETTLED: f64 = 0.15;

/// Before the first call, and after calls to three services.
const MEMORY: [&[&str]; 2] = [
    &["heap_before_bytes", "heap_bytes"],
    &["rss_before_bytes", "rss_bytes"],
];

/// What was found at one size: whether it is good, and how it is shown.
type Finding = Option<(bool, String)>;

pub(super) fn all(found: &Found) -> Vec<Claim> {
    let mut claims = vec![complete(found)];
    for (what, fields, most) in [
        ("config heap", MEMORY[0], MOST_MEMORY),
        ("resident set", MEMORY[1], MOST_MEMORY),
        ("config sent", &["bytes_to_sidecar"][..], MOST_BYTES),
    ] {
        for way in LAZY {
            let text = format!(
                "{}: {what} at most {most:.2} of the hand-written `Sidecar`'s",
                title(way)
            );
            claims.push(at_each(found, text, |size| parts(size, way, fields, most)));
        }
    }
    for way in LAZY {
        let text = format!(
            "{}: ready in at most {MOST_READY} times what the hand-written `Sidecar` takes, or {MORE_READY_MS} ms more",
            title(way)
        );
        claims.push(at_each(found, text, |size| ready(size, way)));
    }
    for way in LAZY {
        let text = format!(
            "{}: steady calls a second and their latency (p50, p99) within plain Istio's noise",
            title(way)
        );
        claims.push(at_each(found, text, |size| steady(size, way)));
    }
    for (over, first, later) in [
        ("HTTP", "first_call_ms", "later_call_ms"),
        ("TCP", "first_call_tcp_ms", "later_call_tcp_ms"),
    ] {
        let text = format!(
            "`on-demand`, 1,000 services, {over}: a first call at most {MOST_FIRST_P50_MS} ms (p50) and \
             {MOST_FIRST_P99_MS} ms (p99) over a later one"
        );
        claims.push(at(found, 1000, text, |size| first_call(size, first, later)));
    }
    let text = format!(
        "settled, 5,000 services: a full push costs istiod at most {MOST_SETTLED} of a plain sidecar's CPU and bytes"
    );
    claims.push(at(found, 5000, text, settled));
    claims
}

/// Whether all was looked at.
fn complete(found: &Found) -> Claim {
    let cells = SIZES
        .into_iter()
        .flat_map(|size| WAYS.map(|way| (size, way)));
    let there = cells.filter(|(size, way)| {
        let size = found.size(*size);
        size.is_some_and(|size| size.get(way, "heap_bytes").is_some())
    });
    let (there, of) = (there.count(), SIZES.len() * WAYS.len());
    Claim {
        text: "measured: all five ways with 200, 1,000 and 5,000 services".into(),
        shown: format!("{there} of {of}"),
        verdict: if there == of {
            Verdict::Holds
        } else {
            Verdict::NotMeasured
        },
    }
}

/// A claim that must hold at every size.
fn at_each(found: &Found, text: String, look: impl Fn(&Size) -> Finding) -> Claim {
    let mut sizes: Vec<u32> = found.sizes.iter().map(|size| size.services).collect();
    sizes.extend(SIZES);
    sizes.sort_unstable();
    sizes.dedup();
    let findings = sizes
        .into_iter()
        .map(|size| (size, found.size(size).and_then(&look)));
    let findings: Vec<_> = findings.collect();
    let shown = findings.iter().map(|(size, finding)| {
        let shown = finding.as_ref().map_or(NOT_MEASURED, |(_, shown)| shown);
        format!("{}: {shown}", count(f64::from(*size)))
    });
    Claim {
        text,
        shown: shown.collect::<Vec<_>>().join("; "),
        verdict: Verdict::of_all(
            findings
                .iter()
                .map(|(_, finding)| verdict(finding.as_ref())),
        ),
    }
}

/// A claim about one size.
fn at(found: &Found, services: u32, text: String, look: impl Fn(&Size) -> Finding) -> Claim {
    let finding = found.size(services).and_then(look);
    Claim {
        text,
        verdict: verdict(finding.as_ref()),
        shown: finding.map_or_else(|| NOT_MEASURED.to_owned(), |(_, shown)| shown),
    }
}

fn verdict(finding: Option<&(bool, String)>) -> Verdict {
    finding.map_or(Verdict::NotMeasured, |(holds, _)| Verdict::of(*holds))
}

/// Parts of the hand-written Sidecar's, none of which may be more than `most`.
fn parts(size: &Size, way: &str, fields: &[&str], most: f64) -> Finding {
    let parts = fields
        .iter()
        .map(|field| size.ratio(way, HAND_WRITTEN, field));
    let parts = parts.collect::<Option<Vec<f64>>>()?;
    let shown: Vec<_> = parts.iter().copied().map(exact_ratio).collect();
    let good = parts.iter().all(|part| *part <= most);
    Some((good, shown.join(", then ")))
}

fn ready(size: &Size, way: &str) -> Finding {
    let (lazy, hand) = (
        size.get(way, "ready_ms")?,
        size.get(HAND_WRITTEN, "ready_ms")?,
    );
    let most = (hand * MOST_READY).max(hand + MORE_READY_MS);
    let [lazy_shown, hand_shown] = [lazy, hand].map(|ms| Unit::Milliseconds.show(ms));
    Some((
        lazy <= most,
        format!("{lazy_shown}, hand-written {hand_shown}"),
    ))
}

/// Noise: what the repetitions of both ways have between their least and their most meets, or the lazy one is better.
fn steady(size: &Size, way: &str) -> Finding {
    let mut all_good = true;
    let mut shown = Vec::new();
    for (field, name, more_is_better) in [
        ("steady.rps", "calls/s", true),
        ("steady.p50_ms", "p50", false),
        ("steady.p99_ms", "p99", false),
    ] {
        let part = size.ratio(way, PLAIN, field)?;
        let (lazy, plain) = (size.spread(way, field)?, size.spread(PLAIN, field)?);
        all_good &= if more_is_better {
            lazy.1 >= plain.0
        } else {
            lazy.0 <= plain.1
        };
        shown.push(format!("{name} {}", ratio(part)));
    }
    Some((all_good, format!("{} of plain's", shown.join(", "))))
}

fn first_call(size: &Size, first: &str, later: &str) -> Finding {
    let over = |quantile: &str| {
        let of = |calls: &str| size.get(ON_DEMAND, &format!("{calls}.{quantile}"));
        Some(of(first)? - of(later)?)
    };
    let (p50, p99) = (over("p50")?, over("p99")?);
    let good = p50 <= MOST_FIRST_P50_MS && p99 <= MOST_FIRST_P99_MS;
    let [p50, p99] = [p50, p99].map(|ms| Unit::Milliseconds.show(ms));
    Some((good, format!("{p50} (p50), {p99} (p99) over")))
}

fn settled(size: &Size) -> Finding {
    let part = |field: &str| size.ratio(SETTLED, PLAIN, &format!("changes.full_push.{field}"));
    let (cpu, bytes) = (part("istiod_cpu_ms")?, part("bytes_from_istiod")?);
    let good = cpu <= MOST_SETTLED && bytes <= MOST_SETTLED;
    Some((
        good,
        format!("{} of the CPU, {} of the bytes", ratio(cpu), ratio(bytes)),
    ))
}
