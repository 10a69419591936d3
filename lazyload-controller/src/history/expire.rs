//! Forgets what Prometheus tells was not called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::{Record, Timestamp, Workload};
use tracing::{info, warn};

use super::History;
use super::gather::{Asking, Gathered};
use crate::expiry::{
    ANNOTATION, Coverage, Evidence, Keeping, Lack, Look, Settings, Verdict, after, judge, window,
};
use crate::observe::add_aliases;
use crate::prometheus::Prometheus;

/// The longest time that is asked for at once, where something kept anyone from asking: longer costs Prometheus more
/// samples than it may load.
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// A workload whose record says something of forgetting, or whose namespace does.
struct Subject {
    workload: Workload,
    record: Arc<Record>,
    keeping: Keeping,
    latest: Option<Evidence>,
    after: Result<Option<Duration>, Lack>,
}

impl History {
    /// Looks once at everything that may be forgotten.
    pub async fn expire(&self, now: Timestamp) {
        let mut lacking: BTreeMap<Lack, usize> = BTreeMap::new();
        let mut evidence = BTreeMap::new();
        let subjects = self.subjects();
        let looked_at: BTreeSet<String> = subjects.keys().cloned().collect();
        for (namespace, subjects) in subjects {
            let gathered = self.look(&namespace, &subjects, now).await;
            let known = self.names(&namespace);
            for subject in subjects {
                let look = subject.look(&gathered, &known);
                let verdict = self.judge_one(&subject, look.as_ref().map_err(|lack| *lack), now);
                if let Some(lack) = verdict.lack {
                    *lacking.entry(lack).or_default() += 1;
                }
                if let Some(found) = verdict.evidence {
                    evidence.insert(subject.workload.clone(), found);
                }
                if verdict.worth_writing {
                    self.write(&subject.workload, &verdict).await;
                }
            }
        }
        let mut memory = self.memory.lock();
        memory.evidence = evidence.into_iter().collect();
        memory
            .failed
            .retain(|namespace| looked_at.contains(namespace));
        drop(memory);
        let count = |lack| lacking.get(&lack).copied().unwrap_or_default();
        self.parts.metrics.history.set_without_evidence(count);
    }

    /// By namespace. One without a word of forgetting, now or before, is none.
    fn subjects(&self) -> BTreeMap<String, Vec<Subject>> {
        let graph = self.parts.state.graph();
        let default = self.parts.args.expire_after;
        let mut subjects: BTreeMap<String, Vec<Subject>> = BTreeMap::new();
        for (workload, record) in graph.workloads() {
            let Some(keeping) = self.parts.state.keeping(workload) else {
                continue;
            };
            let annotation = self.annotation(workload.namespace());
            let after = after(&keeping, annotation.as_deref(), default);
            let said_before = keeping.evidence.is_some() || keeping.lack.is_some();
            if after == Ok(None) && !said_before {
                continue;
            }
            let latest = self.memory.lock().evidence.get(workload).copied();
            subjects
                .entry(workload.namespace().to_owned())
                .or_default()
                .push(Subject {
                    workload: workload.clone(),
                    record: record.clone(),
                    latest: later(latest, keeping.evidence),
                    keeping,
                    after,
                });
        }
        subjects
    }

    fn annotation(&self, namespace: &str) -> Option<String> {
        let world = self.parts.world.as_ref()?.read();
        world
            .namespace(namespace)?
            .annotations
            .get(ANNOTATION)
            .cloned()
    }

    /// How many workloads, known by a record or a pod, have each name.
    fn names(&self, namespace: &str) -> BTreeMap<String, usize> {
        let graph = self.parts.state.graph();
        let recorded = graph.workloads().map(|(workload, _)| workload);
        let recorded = recorded.filter(|workload| workload.namespace() == namespace);
        let mut all: BTreeSet<Workload> = recorded.cloned().collect();
        if let Some(world) = &self.parts.world {
            let world = world.read();
            let pods = world.pods(namespace);
            all.extend(pods.filter_map(|(_, pod)| pod.workload.clone()));
        }
        let mut names = BTreeMap::new();
        for workload in all {
            *names.entry(workload.name().to_owned()).or_default() += 1;
        }
        names
    }

    /// Asks for a namespace, since the last time that was answered.
    async fn look(
        &self,
        namespace: &str,
        subjects: &[Subject],
        now: Timestamp,
    ) -> Result<(Gathered, Timestamp, Timestamp), Lack> {
        let Some(prometheus) = &self.parts.prometheus else {
            return Err(Lack::NoAddress);
        };
        let asked: Vec<&Subject> = subjects
            .iter()
            .filter(|subject| matches!(subject.after, Ok(Some(_))))
            .collect();
        let names: BTreeSet<String> = asked.iter().map(|s| s.workload.name().to_owned()).collect();
        if names.is_empty() {
            // None forgets any more; what is said of it goes.
            return Ok((Gathered::default(), now, now));
        }
        // Twice as long as between two looks, so that one may come late.
        let shortest = self.parts.args.expiry_period.saturating_mul(2);
        let failed = self.memory.lock().failed.contains(namespace);
        // A long look that fails would fail the next time as well, and the time after that.
        let longest = if failed {
            shortest
        } else {
            LONGEST_WINDOW.max(shortest)
        };
        let window = window(asked.iter().map(|s| s.latest), now, shortest, longest);
        let gathered = self.ask(prometheus, namespace, &names, window, now).await;
        let mut memory = self.memory.lock();
        if gathered.is_some() {
            memory.failed.remove(namespace);
        } else {
            memory.failed.insert(namespace.to_owned());
        }
        let from = Timestamp::from_seconds(now.seconds().saturating_sub(window.as_secs()));
        gathered
            .map(|found| (found, from, now))
            .ok_or(Lack::QueryFailed)
    }

    /// All there is, or nothing: a part is no evidence.
    async fn ask(
        &self,
        prometheus: &Prometheus,
        namespace: &str,
        names: &BTreeSet<String>,
        window: Duration,
        now: Timestamp,
    ) -> Option<Gathered> {
        let asking = Asking {
            prometheus,
            metrics: &self.parts.metrics,
            namespace,
            at: now,
            window,
        };
        match asking.evidence(names).await {
            Ok(mut gathered) if gathered.complete => {
                if let Some(world) = &self.parts.world {
                    add_aliases(&world.read(), &mut gathered.calls);
                }
                Some(gathered)
            }
            Ok(_) => {
                warn!(
                    namespace,
                    "Prometheus answers with a part only; nothing expires"
                );
                None
            }
            Err(error) => {
                warn!(namespace, %error, "nothing expires");
                None
            }
        }
    }

    fn judge_one(&self, subject: &Subject, look: Result<&Look, Lack>, now: Timestamp) -> Verdict {
        let args = &self.parts.args;
        let settings = Settings {
            refresh_after: self.parts.limits.refresh_after,
            patience: args.expiry_period.saturating_mul(3),
        };
        judge(
            &subject.record,
            &subject.keeping,
            subject.latest,
            subject.after.unwrap_or_default(),
            look,
            now,
            &settings,
        )
    }

    async fn write(&self, workload: &Workload, verdict: &Verdict) {
        let (store, metrics) = (&self.parts.store, &self.parts.metrics);
        // Others write now, if they do.
        if !self.parts.leader.now() {
            return;
        }
        match store.revise(workload, verdict, &self.parts.limits).await {
            Ok(Some(stored)) => {
                let marks = &stored.now.entry.keeping.forgotten;
                let mut forgotten = verdict.expired.clone();
                // What was called since it was judged has no mark.
                forgotten.retain(|expired| {
                    let (host, protocol) = &expired.called;
                    marks.blocks(host, *protocol, Some(verdict.at))
                });
                let forgotten: Vec<String> = forgotten
                    .iter()
                    .map(|expired| format!("{}/{}", expired.called.0, expired.called.1))
                    .collect();
                if !forgotten.is_empty() {
                    info!(%workload, ?forgotten, "not called for long: forgotten");
                }
                metrics.history.expired.inc_by(forgotten.len() as u64);
                metrics.writes.inc_by(u64::from(stored.wrote));
                metrics.conflicts.inc_by(u64::from(stored.conflicts));
                self.parts.state.set_record(stored.now);
            }
            Ok(None) => {}
            Err(error) => {
                metrics.write_failures.inc();
                warn!(%workload, %error, "nothing is forgotten; trying again");
            }
        }
    }
}

impl Subject {
    /// What of a look is this workload's.
    fn look(
        &self,
        gathered: &Result<(Gathered, Timestamp, Timestamp), Lack>,
        known: &BTreeMap<String, usize>,
    ) -> Result<Look, Lack> {
        self.after?;
        let (gathered, from, at) = gathered.as_ref().map_err(|lack| *lack)?;
        let name = self.workload.name();
        if known.get(name).is_some_and(|count| *count > 1) && self.after != Ok(None) {
            return Err(Lack::AmbiguousName);
        }
        Ok(Look {
            from: *from,
            at: *at,
            called: gathered.calls.get(name).cloned().unwrap_or_default(),
            coverage: gathered
                .coverage
                .get(name)
                .copied()
                .unwrap_or(Coverage::None),
            protocols: gathered.protocols.clone(),
        })
    }
}

/// The later of what is remembered and what is written, which another replica may have done.
fn later(one: Option<Evidence>, other: Option<Evidence>) -> Option<Evidence> {
    match (one, other) {
        (Some(one), Some(other)) if one.until >= other.until => Some(one),
        (one, other) => other.or(one),
    }
}
