//! Learns from what Prometheus tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dependency_graph::{Learned, Mode, Observed, Source, Timestamp, Workload};
use tracing::{debug, info, warn};

use super::History;
use super::gather::Asking;
use crate::metrics::history::Told;
use crate::observe::{Calls, observe};
use crate::plan::modes;
use crate::prometheus::Error;

impl History {
    /// Learns what workloads in mode `observe` were told to call since it was last asked; the first time, in all the
    /// past there is to be asked for.
    pub async fn observe(&self, now: Timestamp) {
        let args = &self.parts.args;
        let Some(world) = self
            .parts
            .world
            .as_ref()
            .filter(|_| self.parts.prometheus.is_some())
        else {
            return;
        };
        let namespaces: BTreeMap<String, BTreeMap<Workload, Mode>> = {
            let (world, graph) = (world.read(), self.parts.state.graph());
            let of = |namespace: &str| (namespace.to_owned(), modes(&world, &graph, namespace));
            let all = world.namespaces().map(of);
            all.filter(|(_, modes)| modes.values().any(|mode| *mode == Mode::Observe))
                .collect()
        };
        let last = {
            let observed = &mut self.memory.lock().observed;
            observed.retain(|namespace, _| namespaces.contains_key(namespace));
            observed.clone()
        };
        for (namespace, modes) in namespaces {
            // What came in late is asked for once more.
            let since = last
                .get(&namespace)
                .map(|last| now.since(*last) + args.observe_period);
            let window = since
                .unwrap_or(args.history)
                .min(args.history.max(args.observe_period));
            match self
                .learn(&namespace, &modes, &[Mode::Observe], window, now)
                .await
            {
                Ok(new) => {
                    self.memory.lock().observed.insert(namespace.clone(), now);
                    debug!(namespace, ?window, new, "observed");
                }
                Err(error) => warn!(namespace, %error, "not observed; trying again"),
            }
        }
    }

    /// Learns what the workloads of a namespace that are in one of these modes called in a time up to now. Returns how
    /// much was new once it is stored.
    pub(super) async fn learn(
        &self,
        namespace: &str,
        modes: &BTreeMap<Workload, Mode>,
        wanted: &[Mode],
        window: Duration,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let (Some(prometheus), Some(world)) = (&self.parts.prometheus, &self.parts.world) else {
            return Ok(0);
        };
        let asking = Asking {
            prometheus,
            metrics: &self.parts.metrics,
            namespace,
            at: now,
            window,
        };
        let names: BTreeSet<String> = modes.keys().map(|w| w.name().to_owned()).collect();
        let gathered = asking.calls(&names).await?;
        let learned = self.judge(
            &world.read(),
            namespace,
            modes,
            wanted,
            &gathered.calls,
            now,
        );
        let new = learned.values().map(Learned::len).sum();
        let mut tickets = Vec::new();
        for (workload, calls) in learned {
            info!(%workload, dependencies = calls.len(), "learned from Prometheus");
            tickets.push(self.parts.writer.submit(workload, calls).await);
        }
        for ticket in tickets {
            // An error: the writer is gone, and so are we soon.
            let _ = ticket.await;
        }
        Ok(new)
    }

    /// What of it is worth writing.
    fn judge(
        &self,
        world: &crate::mesh::World,
        namespace: &str,
        modes: &BTreeMap<Workload, Mode>,
        wanted: &[Mode],
        calls: &Calls,
        now: Timestamp,
    ) -> BTreeMap<Workload, Learned> {
        let observed = observe(world, namespace, modes, wanted, calls, now);
        let counted = &self.parts.metrics.history;
        counted.told(Told::UnknownWorkload, observed.unknown_workload);
        counted.told(Told::UnknownHost, observed.unknown_host);
        counted.told(Told::OtherMode, observed.other_mode);
        let (state, limits) = (&self.parts.state, &self.parts.limits);
        let mut new: BTreeMap<Workload, Learned> = BTreeMap::new();
        for (workload, learned) in observed.learned {
            for dependency in learned.dependencies() {
                let told = match state.would(&workload, &dependency, Some(now), limits) {
                    (Observed::Known, _) => Told::Known,
                    (Observed::Refused, true) => Told::Capped,
                    // Refused for the first time: the store must say so in the record.
                    (Observed::New | Observed::Refreshed | Observed::Refused, _) => {
                        let of_workload = new.entry(workload.clone()).or_default();
                        of_workload.see(&dependency, now, Source::Telemetry);
                        Told::Learned
                    }
                };
                counted.told(told, 1);
            }
        }
        new
    }
}
