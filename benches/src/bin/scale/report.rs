//! What was found: as JSON, as a table, and which of the claims hold.

use std::path::Path;

use anyhow::{Context, Result};
use mesh_benches::claims::Claim;
use serde_json::{Value, json};

use crate::case::{Beside, Case, Found, LeftOut, Spent};

/// The size that memory and speed are claimed at.
const CLAIMED: Case = Case::new(1000, 5000);
const MOST_RSS: u64 = 500_000_000;
const LEAST_INGEST: f64 = 500e6;
/// How many sidecars the time that the shim adds is claimed for.
const CLAIMED_SIDECARS: usize = 100;
const MOST_ADDED_MS: f64 = 2.0;
/// What the quick form's case may have in memory.
const QUICK: Case = Case::new(100, 1000);
const MOST_QUICK_RSS: u64 = 250_000_000;

/// All that was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    found: Vec<Found>,
    left_out: Vec<LeftOut>,
}

impl Report {
    pub(crate) fn add(&mut self, found: Found) {
        if found.broken_streams > 0 {
            let why = found.broken_why.as_deref().unwrap_or_default();
            println!(
                "note: {}x{}: {} streams broke and came back, the last one so: {why}",
                found.sidecars, found.services, found.broken_streams
            );
        }
        self.found.push(found);
    }

    /// Notes what was not measured, and says so.
    pub(crate) fn leave_out(&mut self, one: LeftOut) {
        println!("left out: {}: {}: {}", one.case, one.what, one.why);
        self.left_out.push(one);
    }

    /// Bytes that moved in a second when sidecars connected, in the slowest case so far.
    pub(crate) fn rate(&self) -> Option<f64> {
        let connects = self.found.iter().filter_map(|found| found.connect);
        let rates = connects.map(|spent| spent.bytes_in as f64 / spent.seconds);
        rates.min_by(f64::total_cmp)
    }

    /// What is claimed of what was measured. `quick`: times are not judged.
    pub(crate) fn claims(&self, quick: bool) -> Vec<Claim> {
        let all = self.found.iter().flat_map(claims_on_counts);
        let times = self.found.iter().flat_map(claims_on_times);
        all.chain(times.filter(|_| !quick)).collect()
    }

    /// One line a case, and what bounds a full push.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "{:<11} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}\n",
            "sidecars x",
            "config",
            "RSS",
            "a stream",
            "connect",
            "push",
            "taken in",
            "in the",
            "change",
            "added at",
            "storm",
            "rolling"
        );
        out += &format!(
            "{:<11} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}\n",
            "services",
            "MB",
            "MB",
            "kB",
            "CPU s",
            "CPU s",
            "MB/CPU s",
            "kernel",
            "last ms",
            "p99 ms",
            "s",
            "CPU s"
        );
        for found in &self.found {
            out += &row(found);
        }
        out
    }

    /// Writes all of it down, beside what others wrote there.
    pub(crate) fn write(&self, path: &Path, claims: &[Claim], settings: &Value) -> Result<()> {
        let (complete, partial): (Vec<&Found>, Vec<_>) =
            self.found.iter().partition(|found| found.is_complete());
        let written = [
            ("shim", json!(complete)),
            ("shim_partial", json!(partial)),
            ("shim_left_out", json!(self.left_out)),
            ("shim_claims", json!(claims)),
            ("shim_settings", json!(settings)),
        ];
        add(path, written)
    }
}

/// Writes something down under names, beside what is there under others.
pub(crate) fn add<const N: usize>(path: &Path, written: [(&str, Value); N]) -> Result<()> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut document: Value = serde_json::from_str(&before).unwrap_or_default();
    if !document.is_object() {
        document = json!({});
    }
    for (name, value) in written {
        document[name] = value;
    }
    let text = serde_json::to_string_pretty(&document)?;
    std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

fn name(found: &Found) -> String {
    format!("{} sidecars, {} services", found.sidecars, found.services)
}

fn is(found: &Found, case: Case) -> bool {
    Case::new(found.sidecars, found.services) == case
}

fn claims_on_counts(found: &Found) -> Vec<Claim> {
    let name = name(found);
    let mut claims = Vec::new();
    let bounds = [(CLAIMED, MOST_RSS), (QUICK, MOST_QUICK_RSS)];
    let bound = bounds.into_iter().find(|(case, _)| is(found, *case));
    if let (Some((_, most)), Some(rss)) = (bound, found.rss_bytes) {
        claims.push(Claim {
            claim: format!("{name}: at most {} MB resident", most / 1_000_000),
            holds: rss <= most,
            shown: megabytes(rss) + " MB",
        });
    }
    if let Some(bytes) = found.unused_change_bytes {
        claims.push(Claim {
            claim: format!(
                "{name}: an endpoint change of a service that nobody uses sends no byte"
            ),
            holds: bytes == 0,
            shown: format!("{bytes} bytes"),
        });
    }
    // Who comes back after a stream broke is answered.
    let pushes = found.full_pushes.iter();
    let whole: Vec<&Spent> = pushes.filter(|push| push.broken_streams == 0).collect();
    if !whole.is_empty() {
        let bytes: u64 = whole.iter().map(|push| push.bytes_out).sum();
        claims.push(Claim {
            claim: format!("{name}: a full push of what is unchanged sends no byte to sidecars"),
            holds: bytes == 0,
            shown: format!("{bytes} bytes of {} pushes", whole.len()),
        });
    }
    claims
}

fn claims_on_times(found: &Found) -> Vec<Claim> {
    let name = name(found);
    let mut claims = Vec::new();
    if let Some(ingest) = found.ingest_bytes_per_core_s.filter(|_| is(found, CLAIMED)) {
        let of_kernel = kernel_part(&found.full_pushes) * 100.0;
        claims.push(Claim {
            claim: format!(
                "{name}: a full push is taken in at {:.0} MB/s per core or better",
                LEAST_INGEST / 1e6
            ),
            holds: ingest >= LEAST_INGEST,
            shown: format!(
                "{:.0} MB/s; of its CPU time {of_kernel:.0} % is the kernel's",
                ingest / 1e6
            ),
        });
    }
    if found.sidecars == CLAIMED_SIDECARS {
        let both = [
            ("a service that few use", found.change_of_one),
            ("the service that all use", found.change_of_common),
        ];
        for (what, beside) in both {
            let added = beside.and_then(|beside| Some((beside, beside.added_p99_ms()?)));
            claims.extend(added.map(|(beside, added)| added_claim(&name, what, &beside, added)));
        }
    }
    claims
}

fn added_claim(name: &str, what: &str, beside: &Beside, added: f64) -> Claim {
    let without = beside.without.map_or(f64::NAN, |one| one.p99_ms);
    Claim {
        claim: format!(
            "{name}: an endpoint change of {what} comes at most {MOST_ADDED_MS} ms later (p99)"
        ),
        holds: added <= MOST_ADDED_MS,
        shown: format!(
            "{added:.2} ms: {:.2} ms, {without:.2} ms without the shim",
            beside.shim.p99_ms
        ),
    }
}

/// The part of CPU time that is the kernel's.
fn kernel_part(spent: &[Spent]) -> f64 {
    let system: f64 = spent.iter().map(|one| one.cpu_system_s).sum();
    system / spent.iter().map(Spent::cpu_s).sum::<f64>()
}

fn row(found: &Found) -> String {
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let pushes = &found.full_pushes;
    let kernel = (!pushes.is_empty()).then(|| kernel_part(pushes) * 100.0);
    let added = found.change_of_one.and_then(|one| one.added_p99_ms());
    let storm = found.reconnect_storm.map(|spent| spent.seconds);
    let rolling = found.rolling_restart.map(|spent| spent.cpu_s());
    let per_stream = found.rss_bytes_per_stream.map(|bytes| bytes as f64 / 1e3);
    format!(
        "{:<11} {:>7.1} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}\n",
        Case::new(found.sidecars, found.services).to_string(),
        found.config_bytes as f64 / 1e6,
        found.rss_bytes.map_or_else(|| "-".to_owned(), megabytes),
        shown(per_stream, 0),
        shown(found.connect.map(|spent| spent.cpu_s()), 2),
        shown(found.full_push_cpu_s, 2),
        shown(found.ingest_bytes_per_core_s.map(|bytes| bytes / 1e6), 0),
        shown(kernel, 0) + " %",
        shown(found.last_sidecar_ms, 2),
        shown(added, 2),
        shown(storm, 2),
        shown(rolling, 2),
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Latency;

    fn latency(p99_ms: f64) -> Latency {
        Latency {
            changes: 10,
            p50_ms: 1.0,
            p99_ms,
            max_ms: 9.0,
            last_ms: 5.0,
        }
    }

    fn spent(bytes_in: u64, bytes_out: u64) -> Spent {
        Spent {
            seconds: 2.0,
            cpu_user_s: 3.0,
            cpu_system_s: 1.0,
            bytes_in,
            bytes_out,
            peak_rss_bytes: 1 << 30,
            broken_streams: 0,
        }
    }

    fn found(case: Case) -> Found {
        Found {
            rss_bytes: Some(400_000_000),
            last_sidecar_ms: Some(5.0),
            full_push_cpu_s: Some(4.0),
            ingest_bytes_per_core_s: Some(6e8),
            change_of_one: Some(Beside {
                shim: latency(3.0),
                without: Some(latency(1.5)),
            }),
            unused_change_bytes: Some(0),
            connect: Some(spent(2_400_000_000, 1000)),
            full_pushes: vec![spent(2_400_000_000, 0)],
            ..Found::of(case, 16_000_000)
        }
    }

    fn failing(found: Found, quick: bool) -> Vec<String> {
        let report = Report {
            found: vec![found],
            left_out: vec![],
        };
        let failing = report.claims(quick).into_iter().filter(|one| !one.holds);
        failing.map(|one| one.claim).collect()
    }

    #[test]
    fn what_is_as_it_should_be_holds() {
        for case in [CLAIMED, Case::new(100, 5000), QUICK] {
            let mut found = found(case);
            found.rss_bytes = Some(100_000_000);
            assert_eq!(failing(found, false), [""; 0]);
        }
    }

    #[test]
    fn each_claim_can_fail() {
        let mut bad = found(CLAIMED);
        bad.rss_bytes = Some(MOST_RSS + 1);
        bad.unused_change_bytes = Some(1);
        bad.full_pushes.push(spent(1, 1));
        bad.ingest_bytes_per_core_s = Some(LEAST_INGEST - 1.0);
        assert_eq!(failing(bad.clone(), false).len(), 4);
        assert_eq!(failing(bad, true).len(), 3);
        let mut late = found(Case::new(100, 5000));
        late.change_of_common = late.change_of_one;
        late.change_of_one = Some(Beside {
            shim: latency(4.0),
            without: Some(latency(1.5)),
        });
        assert_eq!(failing(late.clone(), false).len(), 1);
        assert_eq!(failing(late, true), [""; 0]);
    }

    #[test]
    fn what_others_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scale.json");
        std::fs::write(&path, r#"{"controller": {"rss_bytes": 1}, "shim": []}"#).unwrap();
        let partial = Found::of(Case::new(100, 5000), 1);
        let report = Report {
            found: vec![found(CLAIMED), partial],
            left_out: vec![],
        };
        report.write(&path, &[], &json!({})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["controller"]["rss_bytes"], 1);
        let shim = document["shim"].as_array().unwrap();
        assert_eq!(shim.len(), 1);
        assert_eq!(shim[0]["sidecars"], 1000);
        assert_eq!(shim[0]["rss_bytes"], 400_000_000);
        assert!(shim[0]["full_push_cpu_s"].is_f64());
        assert_eq!(document["shim_partial"][0]["sidecars"], 100);
    }

    #[test]
    fn the_slowest_case_is_what_is_reckoned_with() {
        let mut slow = found(CLAIMED);
        slow.connect = Some(spent(1000, 0));
        let report = Report {
            found: vec![found(QUICK), slow],
            left_out: vec![],
        };
        assert_eq!(report.rate(), Some(500.0));
        assert!(Report::default().rate().is_none());
    }
}
