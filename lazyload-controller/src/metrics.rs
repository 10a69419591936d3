//! What the controller counts. Every label value is one of a fixed few.

pub mod history;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What became of an observation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Something new, or a last call worth writing again.
    Accepted,
    /// Known already.
    Known,
    /// Refused, for a reason.
    Refused(Refusal),
}

/// Why an observation is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It is no observation.
    Malformed,
    /// The workload or the namespace has as much as it may have.
    Capped,
    /// It came beyond the number a batch may have.
    BatchTooLarge,
    /// The store will never take it: its namespace is gone, or its record is not readable.
    Unwritable,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Known,
        Self::Refused(Refusal::Malformed),
        Self::Refused(Refusal::Capped),
        Self::Refused(Refusal::BatchTooLarge),
        Self::Refused(Refusal::Unwritable),
    ];

    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Known => "known",
            Self::Refused(Refusal::Malformed) => "malformed",
            Self::Refused(Refusal::Capped) => "capped",
            Self::Refused(Refusal::BatchTooLarge) => "batch_too_large",
            Self::Refused(Refusal::Unwritable) => "unwritable",
        }
    }
}

/// The metrics of a controller.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Watches open now.
    pub watches: IntGauge,
    /// Batches reported.
    pub reports: IntCounter,
    observations: IntCounterVec,
    /// Writes of a record.
    pub writes: IntCounter,
    /// Writes that failed and are tried again.
    pub write_failures: IntCounter,
    /// Writes that met a change by someone else.
    pub conflicts: IntCounter,
    /// Seconds from the first report of a burst to its being stored.
    pub write_seconds: Histogram,
    /// Resources or documents that cannot be read, as of the last look at each.
    pub unreadable: IntCounter,
    /// Records known.
    pub records: IntGauge,
    /// Dependencies learned, of all workloads.
    pub dependencies: IntGauge,
    /// Callers turned away.
    pub unauthenticated: IntCounter,
    /// Learning from Prometheus, and forgetting.
    pub history: history::History,
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
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("lazymesh_controller_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let opts = Opts::new(
            "lazymesh_controller_observations_total",
            "Observations, by what became of them",
        );
        let observations = IntCounterVec::new(opts, &["result"])?;
        registry.register(Box::new(observations.clone()))?;
        for outcome in Outcome::ALL {
            observations
                .with_label_values(&[outcome.as_str()])
                .inc_by(0);
        }
        let opts = HistogramOpts::new(
            "lazymesh_controller_write_seconds",
            "Seconds from the first report of a burst to its being stored",
        );
        let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
        let write_seconds = Histogram::with_opts(opts.buckets(buckets))?;
        registry.register(Box::new(write_seconds.clone()))?;
        Ok(Self {
            watches: gauge("watches", "Watches open now")?,
            reports: counter("reports", "Batches of observations reported")?,
            observations,
            writes: counter("writes", "Records written")?,
            write_failures: counter("write_failures", "Writes that failed and are tried again")?,
            conflicts: counter("conflicts", "Writes that met a change by someone else")?,
            write_seconds,
            unreadable: counter(
                "unreadable",
                "Resources or documents that could not be read",
            )?,
            records: gauge("records", "WorkloadDependencies known")?,
            dependencies: gauge("dependencies", "Dependencies learned, of all workloads")?,
            unauthenticated: counter("unauthenticated", "Calls turned away")?,
            history: history::History::new(registry)?,
        })
    }

    /// Counts observations.
    pub fn observed(&self, outcome: Outcome, count: usize) {
        self.observations
            .with_label_values(&[outcome.as_str()])
            .inc_by(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Outcome::ALL.map(Outcome::as_str).into();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn registers_once_only() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.observed(Outcome::Known, 3);
        assert!(Metrics::new(&registry).is_err());
        let families = registry.gather();
        let counted = families
            .iter()
            .find(|f| f.name().ends_with("observations_total"))
            .unwrap();
        assert_eq!(counted.get_metric().len(), Outcome::ALL.len());
    }
}
