//! Asks all there is to ask of a namespace, in pieces that a server can answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dependency_graph::{Protocol, Timestamp};

use crate::expiry::Coverage;
use crate::metrics::Metrics;
use crate::metrics::history::Told;
use crate::observe::{self, Calls};
use crate::prometheus::query::Scope;
use crate::prometheus::{Answer, Error, Fault, Prometheus, Row};

/// Workloads asked for at once. With 50 services each an answer has about a megabyte.
pub(super) const AT_ONCE: usize = 200;
/// How far apart moments are looked at for whether a workload had series; Prometheus itself sees one for 5 minutes.
const SHORTEST_STEP: Duration = Duration::from_secs(300);
/// How many moments of a window are looked at, at most.
const STEPS: u32 = 288;

/// A window of time and who is asked about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    pub(super) prometheus: &'a Prometheus,
    pub(super) metrics: &'a Metrics,
    pub(super) namespace: &'a str,
    pub(super) at: Timestamp,
    pub(super) window: Duration,
}

/// What was told of all workloads of a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub(super) calls: Calls,
    /// How much of the window each workload had series in; one that is not here had none.
    pub(super) coverage: BTreeMap<String, Coverage>,
    /// The protocols there are series of.
    pub(super) protocols: BTreeSet<Protocol>,
    /// Whether all there is was told.
    pub(super) complete: bool,
}

impl Asking<'_> {
    /// Who calls what. `names`: the workloads known.
    pub(super) async fn calls(&self, names: &BTreeSet<String>) -> Result<Gathered, Error> {
        let mut gathered = Gathered {
            complete: true,
            ..Gathered::default()
        };
        for protocol in [Protocol::Http, Protocol::Tcp] {
            let query = |scope: &Scope| scope.called(protocol, self.window);
            let (rows, complete) = self.rows(names, query).await?;
            let odd = observe::take_in(&mut gathered.calls, &rows, protocol);
            self.metrics.history.told(Told::UnreadableHost, odd);
            gathered.complete &= complete;
        }
        Ok(gathered)
    }

    /// Who calls what, and what that is worth as evidence.
    pub(super) async fn evidence(&self, names: &BTreeSet<String>) -> Result<Gathered, Error> {
        let mut gathered = self.calls(names).await?;
        let step = (self.window / STEPS).max(SHORTEST_STEP);
        for protocol in [Protocol::Http, Protocol::Tcp] {
            let query = |scope: &Scope| scope.present(protocol, self.window, step);
            let (rows, complete) = self.rows(names, query).await?;
            gathered.complete &= complete;
            for row in rows {
                gathered.protocols.insert(protocol);
                let coverage = coverage(row.value, self.window, step);
                let known = gathered
                    .coverage
                    .entry(row.workload)
                    .or_insert(Coverage::None);
                *known = coverage.max(*known);
            }
        }
        Ok(gathered)
    }

    /// All rows of a question, and whether that is all there is. Few workloads are asked for together, and with them
    /// those that nobody knows; many in pieces, and what is too much in halves.
    async fn rows(
        &self,
        names: &BTreeSet<String>,
        query: impl Fn(&Scope) -> String,
    ) -> Result<(Vec<Row>, bool), Error> {
        let all: Vec<String> = names.iter().cloned().collect();
        let mut pieces: Vec<Vec<String>> = if all.len() > AT_ONCE {
            all.chunks(AT_ONCE).map(<[String]>::to_vec).collect()
        } else {
            vec![Vec::new()]
        };
        let (mut rows, mut complete) = (Vec::new(), true);
        while let Some(workloads) = pieces.pop() {
            let scope = Scope {
                namespace: self.namespace.to_owned(),
                workloads,
            };
            match self.ask(&query(&scope)).await {
                Ok(answer) => {
                    complete &= answer.complete;
                    rows.extend(answer.rows);
                }
                Err(error) => {
                    let smaller = halves(&scope.workloads, &all);
                    if !matches!(error.fault, Fault::TooMuch(_)) || smaller.is_empty() {
                        return Err(error);
                    }
                    pieces.extend(smaller);
                }
            }
        }
        Ok((rows, complete))
    }

    async fn ask(&self, query: &str) -> Result<Answer, Error> {
        let answered = self.prometheus.ask(query, self.at).await;
        match &answered {
            Ok(answer) => self.metrics.history.answered(answer.complete),
            Err(error) => self.metrics.history.failed(&error.fault),
        }
        answered
    }
}

/// Smaller pieces of one that was too much; none when there are none. An empty piece is all.
fn halves(piece: &[String], all: &[String]) -> Vec<Vec<String>> {
    let names = if piece.is_empty() { all } else { piece };
    if piece.len() == 1 || names.is_empty() {
        return Vec::new();
    }
    let (left, right) = names.split_at(names.len() / 2);
    [left, right]
        .iter()
        .filter(|half| !half.is_empty())
        .map(|half| half.to_vec())
        .collect()
}

/// What so many moments with series are of a window. The moments lie where the server likes, so one more or less says
/// nothing.
fn coverage(moments: f64, window: Duration, step: Duration) -> Coverage {
    let all = window.as_secs_f64() / step.as_secs_f64();
    if moments + 1.0 >= all.floor() {
        Coverage::Whole
    } else if moments > 0.0 {
        Coverage::Part
    } else {
        Coverage::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_too_much_is_halved_until_it_is_one() {
        let all = names(&["a", "b", "c"]);
        assert_eq!(halves(&[], &all), [names(&["a"]), names(&["b", "c"])]);
        assert_eq!(
            halves(&names(&["b", "c"]), &all),
            [names(&["b"]), names(&["c"])]
        );
        assert!(halves(&names(&["b"]), &all).is_empty());
        assert!(halves(&[], &[]).is_empty(), "nobody is known to ask for");
        assert_eq!(halves(&[], &names(&["a"])), [names(&["a"])]);
    }

    #[test]
    fn one_moment_more_or_less_says_nothing() {
        let (window, step) = (Duration::from_secs(7200), SHORTEST_STEP);
        for (moments, expected) in [
            (25.0, Coverage::Whole),
            (24.0, Coverage::Whole),
            (23.0, Coverage::Whole),
            (22.0, Coverage::Part),
            (1.0, Coverage::Part),
            (0.0, Coverage::None),
        ] {
            assert_eq!(coverage(moments, window, step), expected, "{moments}");
        }
    }
}
