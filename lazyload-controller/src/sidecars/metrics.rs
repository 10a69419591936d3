//! What is counted of the mode `sidecar`. Every label value is one of a fixed few.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::cluster::Fault;
use crate::mesh::Kind;

/// See the module.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Whether this replica leads.
    pub leader: IntGauge,
    sidecars: IntGauge,
    filters: IntGauge,
    settled: IntGauge,
    writes: IntCounterVec,
    /// Seconds that a plan of namespaces takes.
    pub plan_seconds: Histogram,
    learned: HistogramVec,
    unreadable: IntCounterVec,
    unwatched: IntCounterVec,
    /// Namespaces planned.
    pub plans: IntCounter,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A Sidecar or an EnvoyFilter was made or changed.
    Applied,
    /// One was deleted.
    Deleted,
    /// Conditions of a record were written, or found as they should be.
    Said,
    /// A user has edited it.
    Edited,
    /// It is another object than was meant.
    Another,
    /// It had changed since it was last seen.
    Stale,
    /// It is refused.
    Refused,
    /// It may work another time.
    Failed,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Applied,
        Self::Deleted,
        Self::Said,
        Self::Edited,
        Self::Another,
        Self::Stale,
        Self::Refused,
        Self::Failed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Deleted => "deleted",
            Self::Said => "said",
            Self::Edited => "edited",
            Self::Another => "another",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl From<&Fault> for Outcome {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Edited(_) => Self::Edited,
            Fault::Another(_) => Self::Another,
            Fault::Stale(_) => Self::Stale,
            Fault::Refused(_) => Self::Refused,
            Fault::Unavailable(_) => Self::Failed,
        }
    }
}

/// How far a learned host has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Come {
    /// The Sidecar announces it: written for the first time.
    Announced,
    /// The Sidecar gives it.
    Given,
}

impl Come {
    fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Given => "given",
        }
    }
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("lazymesh_controller_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let opts = Opts::new(format!("lazymesh_controller_{name}_total"), help);
            let counters = IntCounterVec::new(opts, &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let seconds = |name: &str, help: &str| {
            let opts = HistogramOpts::new(format!("lazymesh_controller_{name}_seconds"), help);
            opts.buckets(vec![
                0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
            ])
        };
        let plan_seconds = Histogram::with_opts(seconds(
            "plan",
            "Seconds that planning the namespaces that were touched takes",
        ))?;
        registry.register(Box::new(plan_seconds.clone()))?;
        let learned = HistogramVec::new(
            seconds(
                "learned_to_sidecar",
                "Seconds from a host being learned to the Sidecar that announces it, and that gives it",
            ),
            &["stage"],
        )?;
        registry.register(Box::new(learned.clone()))?;
        let plans = IntCounter::new("lazymesh_controller_plans_total", "Namespaces planned")?;
        registry.register(Box::new(plans.clone()))?;
        let metrics = Self {
            leader: gauge("leader", "Whether this replica writes Sidecars")?,
            sidecars: gauge("sidecars", "Sidecars of Lazymesh")?,
            filters: gauge("envoyfilters", "EnvoyFilters of Lazymesh")?,
            settled: gauge(
                "settled_workloads",
                "Workloads of mode on-demand that have settled: istiod generates what their Sidecar says",
            )?,
            writes: counters(
                "mesh_writes",
                "Writes of the mode sidecar, by what became of them",
                "outcome",
            )?,
            plan_seconds,
            learned,
            unreadable: counters(
                "unreadable_objects",
                "Objects of the mesh that could not be read, by kind",
                "kind",
            )?,
            unwatched: counters(
                "watch_failures",
                "Failures to list or watch a kind; nothing is planned before every kind was listed once",
                "kind",
            )?,
            plans,
        };
        for outcome in Outcome::ALL {
            metrics.count(outcome, 0);
        }
        for kind in Kind::ALL {
            let _ = metrics.unreadable.with_label_values(&[&kind.to_string()]);
            let _ = metrics.unwatched.with_label_values(&[&kind.to_string()]);
        }
        for come in [Come::Announced, Come::Given] {
            let _ = metrics.learned.with_label_values(&[come.as_str()]);
        }
        Ok(metrics)
    }

    /// How many Sidecars and EnvoyFilters of ours there are.
    pub fn ours(&self, (sidecars, filters): (usize, usize)) {
        self.sidecars.set(whole(sidecars));
        self.filters.set(whole(filters));
    }

    /// How many workloads have settled.
    pub fn settled(&self, workloads: usize) {
        self.settled.set(whole(workloads));
    }

    /// Counts a write.
    pub fn wrote(&self, outcome: Outcome) {
        self.count(outcome, 1);
    }

    fn count(&self, outcome: Outcome, count: u64) {
        let counter = self.writes.with_label_values(&[outcome.as_str()]);
        counter.inc_by(count);
    }

    /// Counts an object that cannot be read.
    pub fn unreadable(&self, kind: Kind) {
        self.unreadable
            .with_label_values(&[&kind.to_string()])
            .inc();
    }

    /// Counts that a kind could not be listed or watched.
    pub fn unwatched(&self, kind: Kind) {
        self.unwatched.with_label_values(&[&kind.to_string()]).inc();
    }

    /// How long it took from a host's being learned.
    pub fn came(&self, come: Come, seconds: f64) {
        self.learned
            .with_label_values(&[come.as_str()])
            .observe(seconds);
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
