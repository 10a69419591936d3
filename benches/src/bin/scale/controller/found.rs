//! What was found: as JSON, as a table, and which of the claims hold.

use mesh_benches::claims::Claim;
use serde::Serialize;

use super::edges::Size;

/// What is claimed, and of which size.
pub(crate) const CLAIMED: Size = Size::new(10_000, 50);
const MOST_MEMORY: u64 = 1_000_000_000;
const LEAST_RATE: f64 = 5000.0;
const MOST_CATCH_UP_S: f64 = 5.0;
/// The quick form's size, and what it may have in memory.
pub(crate) const QUICK: Size = Size::new(200, 20);
const MOST_QUICK_MEMORY: u64 = 70_000_000;
/// Bytes that a new shim is sent for each edge, hosts of 40 bytes among them. Of the edge alone it is some 50.
const MOST_BYTES: u64 = 64;

/// All that was found. A report is one observation: a dependency of a workload, and when it was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) store: &'static str,
    pub(crate) workloads: usize,
    /// Before further ones are learned.
    pub(crate) edges: usize,
    /// That report and watch all along.
    pub(crate) shims: usize,
    pub(crate) load: Taken,
    /// After the load, at rest.
    pub(crate) rss_bytes: u64,
    /// Resources as they are stored.
    pub(crate) stored_bytes: u64,
    /// Cores that it keeps busy at rest: a folder is looked at every now and then.
    pub(crate) idle_cores: f64,
    pub(crate) counted: Counted,
    /// Reports of what is known, and nothing else.
    pub(crate) known: Taken,
    pub(crate) sustained: Sustained,
    pub(crate) burst: Taken,
    pub(crate) catch_up: CatchUp,
    /// The most there was of resident memory until here.
    pub(crate) peak_rss_bytes: u64,
    pub(crate) restart: Restart,
}

/// What the controller counted after the load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Counted {
    pub(crate) records: u64,
    pub(crate) edges: u64,
    /// Observations that were refused, for whatever reason.
    pub(crate) refused: u64,
}

/// Reports, and what they took until all were acknowledged.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Taken {
    pub(crate) reports: usize,
    /// Those of edges that were not known.
    pub(crate) new: usize,
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    /// Batches they came in.
    pub(crate) batches: u64,
    /// Records that were written.
    pub(crate) writes: u64,
    /// Bytes of what all shims were told meanwhile.
    pub(crate) told_bytes: u64,
    pub(crate) peak_rss_bytes: u64,
}

impl Taken {
    pub(crate) fn rate(&self) -> f64 {
        self.reports as f64 / self.seconds
    }
}

/// A steady stream of reports.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sustained {
    pub(crate) offered_per_s: f64,
    /// Over the time in which they were offered.
    pub(crate) acknowledged_per_s: f64,
    /// The most that were waiting to be acknowledged.
    pub(crate) most_pending: usize,
    #[serde(flatten)]
    pub(crate) taken: Taken,
}

/// New shims, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CatchUp {
    pub(crate) bytes: u64,
    pub(crate) median_s: f64,
    pub(crate) max_s: f64,
    pub(crate) times: usize,
    pub(crate) knows: Knows,
    /// What there was to know: all that was reported.
    pub(crate) edges: usize,
}

/// What a shim knows; the least of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Knows {
    pub(crate) workloads: usize,
    pub(crate) edges: usize,
}

/// The controller ends and begins anew on what is stored, and all shims come at once.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Restart {
    pub(crate) ends_after_s: f64,
    /// From its start.
    pub(crate) listens_after_s: f64,
    /// From its start, until the last of the shims knows the graph.
    pub(crate) all_caught_up_after_s: f64,
    pub(crate) knows: Knows,
    pub(crate) rss_bytes: u64,
    pub(crate) peak_rss_bytes: u64,
}

impl Found {
    fn size(&self) -> Size {
        Size::new(self.workloads, self.edges / self.workloads.max(1))
    }

    fn is(&self, size: Size) -> bool {
        self.size() == size
    }

    /// What is claimed of it. `quick`: times are not judged.
    pub(crate) fn claims(&self, quick: bool) -> Vec<Claim> {
        let mut claims = vec![self.counts(), self.nothing_twice(), self.writes()];
        claims.extend([self.complete(), self.bytes()]);
        claims.extend(self.memory());
        if !quick {
            claims.extend(self.times());
        }
        claims
    }

    fn counts(&self) -> Claim {
        let Counted {
            records,
            edges,
            refused,
        } = self.counted;
        Claim {
            claim: "controller: every edge that is reported is learned".into(),
            holds: (records, edges, refused) == (self.workloads as u64, self.edges as u64, 0),
            shown: format!("{edges} edges of {records} workloads, {refused} refused"),
        }
    }

    fn nothing_twice(&self) -> Claim {
        let Taken {
            reports,
            writes,
            told_bytes,
            ..
        } = self.known;
        Claim {
            claim:
                "controller: reports of what is known write nothing, and no shim is told of them"
                    .into(),
            holds: reports > 0 && (writes, told_bytes) == (0, 0),
            shown: format!("{reports} reports, {writes} writes, {told_bytes} bytes told"),
        }
    }

    /// With an edge that is new to each of many workloads nothing can be gathered: more would be written twice.
    fn writes(&self) -> Claim {
        let both = [self.sustained.taken, self.burst];
        let new: usize = both.iter().map(|taken| taken.new).sum();
        let writes: u64 = both.iter().map(|taken| taken.writes).sum();
        Claim {
            claim: "controller: a new edge is one write at most".into(),
            holds: writes > 0 && writes <= new as u64,
            shown: format!("{writes} writes, {new} new edges"),
        }
    }

    fn complete(&self) -> Claim {
        let all = Knows {
            workloads: self.workloads,
            edges: self.catch_up.edges,
        };
        let (new, again) = (self.catch_up.knows, self.restart.knows);
        Claim {
            claim: "controller: a new shim is told everything, and so it is after a restart".into(),
            holds: new == all && again == all,
            shown: format!(
                "{} edges of {}, {} after a restart",
                new.edges, all.edges, again.edges
            ),
        }
    }

    fn bytes(&self) -> Claim {
        let CatchUp { bytes, edges, .. } = self.catch_up;
        let each = bytes.checked_div(edges as u64).unwrap_or(u64::MAX);
        Claim {
            claim: format!("controller: a new shim is sent at most {MOST_BYTES} bytes an edge"),
            holds: each <= MOST_BYTES,
            shown: format!("{each} bytes, {:.1} MB in all", megabytes(bytes)),
        }
    }

    fn memory(&self) -> Option<Claim> {
        let (claim, most) = if self.is(CLAIMED) {
            let claim = "controller: 10,000 workloads and 500,000 edges in at most 1 GB".to_owned();
            (claim, MOST_MEMORY)
        } else if self.is(QUICK) {
            let most = MOST_QUICK_MEMORY / 1_000_000;
            (
                format!("controller: {QUICK} in at most {most} MB"),
                MOST_QUICK_MEMORY,
            )
        } else {
            return None;
        };
        let peak = self.peak_rss_bytes.max(self.restart.peak_rss_bytes);
        Some(Claim {
            claim,
            holds: peak <= most,
            shown: format!(
                "{:.0} MB at the most, {:.0} MB at rest",
                megabytes(peak),
                megabytes(self.rss_bytes)
            ),
        })
    }

    fn times(&self) -> Vec<Claim> {
        let Sustained {
            offered_per_s,
            acknowledged_per_s,
            most_pending,
            ..
        } = self.sustained;
        if !self.is(CLAIMED) {
            return Vec::new();
        }
        vec![
            Claim {
                claim: "controller: 5,000 reports a second, sustained".into(),
                holds: acknowledged_per_s >= LEAST_RATE,
                shown: format!(
                    "{acknowledged_per_s:.0} of {offered_per_s:.0} a second, {most_pending} pending at the most"
                ),
            },
            Claim {
                claim: "controller: a new shim has caught up after at most 5 s".into(),
                holds: self.catch_up.max_s <= MOST_CATCH_UP_S,
                shown: format!(
                    "{:.2} s (the slowest of {})",
                    self.catch_up.max_s, self.catch_up.times
                ),
            },
        ]
    }

    /// One line for each thing that was done.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "{} workloads, {} edges, store: {} ({:.0} MB), {} shims; a report is one edge of one workload\n\
             {:<22} {:>9} {:>7} {:>8} {:>9} {:>8} {:>7} {:>8} {:>9} {:>8}\n",
            self.workloads,
            self.edges,
            self.store,
            megabytes(self.stored_bytes),
            self.shims,
            "controller",
            "reports",
            "new",
            "s",
            "reports/s",
            "a batch",
            "CPU s",
            "writes",
            "told MB",
            "peak MB"
        );
        let rows = [
            ("load", self.load),
            ("what is known", self.known),
            ("sustained", self.sustained.taken),
            ("burst", self.burst),
        ];
        for (what, taken) in rows {
            out += &row(what, &taken);
        }
        let Restart {
            ends_after_s,
            listens_after_s,
            all_caught_up_after_s,
            ..
        } = self.restart;
        out += &format!(
            "at rest: {:.0} MB, {:.2} cores\na new shim: {:.2} s (median), {:.2} s (slowest), {:.1} MB\n\
             restart: ends after {ends_after_s:.2} s, listens after {listens_after_s:.2} s, all {} shims caught up after {all_caught_up_after_s:.2} s, {:.0} MB, {:.0} MB at the most\n",
            megabytes(self.rss_bytes),
            self.idle_cores,
            self.catch_up.median_s,
            self.catch_up.max_s,
            megabytes(self.catch_up.bytes),
            self.shims,
            megabytes(self.restart.rss_bytes),
            megabytes(self.restart.peak_rss_bytes),
        );
        out
    }
}

fn row(what: &str, taken: &Taken) -> String {
    format!(
        "{what:<22} {:>9} {:>7} {:>8.2} {:>9.0} {:>8.0} {:>7.2} {:>8} {:>9.1} {:>8.0}\n",
        taken.reports,
        taken.new,
        taken.seconds,
        taken.rate(),
        taken.reports as f64 / taken.batches.max(1) as f64,
        taken.cpu_s,
        taken.writes,
        megabytes(taken.told_bytes),
        megabytes(taken.peak_rss_bytes),
    )
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(reports: usize, new: usize, writes: u64) -> Taken {
        Taken {
            reports,
            new,
            seconds: 20.0,
            cpu_s: 5.0,
            batches: 10,
            writes,
            told_bytes: writes * 100,
            peak_rss_bytes: 1 << 20,
        }
    }

    fn found(size: Size) -> Found {
        let (workloads, edges) = (size.workloads, size.edges());
        let all = edges + 300;
        let knows = Knows {
            workloads,
            edges: all,
        };
        Found {
            store: "file",
            workloads,
            edges,
            shims: 8,
            load: taken(edges, edges, workloads as u64),
            rss_bytes: 50_000_000,
            stored_bytes: 1,
            idle_cores: 0.1,
            counted: Counted {
                records: workloads as u64,
                edges: edges as u64,
                refused: 0,
            },
            known: taken(1000, 0, 0),
            sustained: Sustained {
                offered_per_s: 6000.0,
                acknowledged_per_s: 5999.0,
                most_pending: 10,
                taken: taken(10_000, 200, 200),
            },
            burst: taken(5000, 100, 99),
            catch_up: CatchUp {
                bytes: 50 * all as u64,
                median_s: 1.0,
                max_s: 2.0,
                times: 5,
                knows,
                edges: all,
            },
            peak_rss_bytes: 60_000_000,
            restart: Restart {
                ends_after_s: 0.1,
                listens_after_s: 0.1,
                all_caught_up_after_s: 9.0,
                knows,
                rss_bytes: 1,
                peak_rss_bytes: 1,
            },
        }
    }

    fn failing(found: &Found, quick: bool) -> usize {
        let claims = found.claims(quick).into_iter();
        claims.filter(|claim| !claim.holds).count()
    }

    #[test]
    fn what_is_as_it_should_be_holds() {
        for size in [CLAIMED, QUICK] {
            assert_eq!(failing(&found(size), false), 0);
        }
        assert_eq!(found(CLAIMED).claims(false).len(), 8);
        assert_eq!(found(QUICK).claims(true).len(), 6);
    }

    #[test]
    fn each_claim_can_fail() {
        let spoil: [fn(&mut Found); 9] = [
            |one| one.counted.edges -= 1,
            |one| one.counted.refused = 1,
            |one| one.known.writes = 1,
            |one| one.known.told_bytes = 1,
            |one| one.burst.writes = 200,
            |one| one.restart.knows.edges -= 1,
            |one| one.catch_up.knows.workloads -= 1,
            |one| one.catch_up.bytes *= 2,
            |one| one.restart.peak_rss_bytes = MOST_MEMORY + 1,
        ];
        for (nth, spoil) in spoil.into_iter().enumerate() {
            for size in [CLAIMED, QUICK] {
                let mut found = found(size);
                spoil(&mut found);
                assert_eq!(failing(&found, true), 1, "{nth}");
            }
        }
    }

    #[test]
    fn times_are_judged_at_the_size_they_are_claimed_of_and_never_in_the_quick_form() {
        let slow = |size| {
            let mut slow = found(size);
            slow.sustained.acknowledged_per_s = 4999.0;
            slow.catch_up.max_s = 5.1;
            slow
        };
        assert_eq!(failing(&slow(CLAIMED), false), 2);
        assert_eq!(failing(&slow(CLAIMED), true), 0);
        assert_eq!(failing(&slow(QUICK), false), 0);
    }
}
