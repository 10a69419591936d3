//! What is counted of learning from Prometheus and of forgetting.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::expiry::Lack;
use crate::prometheus::Fault;

/// What became of a call that telemetry told of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// Something new, or a last call worth writing again.
    Learned,
    /// Known already.
    Known,
    /// The workload or the namespace has as much as it may have.
    Capped,
    /// No workload known has that name.
    UnknownWorkload,
    /// It is no service of the mesh that the workload sees.
    UnknownHost,
    /// Its name is none.
    UnreadableHost,
    /// The workload is in a mode in which nothing is learned so.
    OtherMode,
}

impl Told {
    const ALL: [Self; 7] = [
        Self::Learned,
        Self::Known,
        Self::Capped,
        Self::UnknownWorkload,
        Self::UnknownHost,
        Self::UnreadableHost,
        Self::OtherMode,
    ];

    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Known => "known",
            Self::Capped => "capped",
            Self::UnknownWorkload => "unknown_workload",
            Self::UnknownHost => "unknown_host",
            Self::UnreadableHost => "unreadable_host",
            Self::OtherMode => "other_mode",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct History {
    queries: IntCounterVec,
    told: IntCounterVec,
    /// Dependencies forgotten.
    pub expired: IntCounter,
    without_evidence: IntGaugeVec,
}

/// A query that was answered in full.
const ANSWERED: &str = "answered";
/// One that was answered with a part.
const INCOMPLETE: &str = "incomplete";

impl History {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, values: &[&str]| {
            let opts = Opts::new(format!("lazymesh_controller_{name}_total"), help);
            let counters = IntCounterVec::new(opts, &["result"])?;
            registry.register(Box::new(counters.clone()))?;
            for value in values {
                counters.with_label_values(&[value]).inc_by(0);
            }
            Ok::<_, prometheus::Error>(counters)
        };
        let results = [&[ANSWERED, INCOMPLETE][..], &Fault::NAMES].concat();
        let queries = counters(
            "prometheus_queries",
            "Queries to Prometheus, by what became of them",
            &results,
        )?;
        let told = counters(
            "telemetry",
            "Calls that Prometheus told of while learning, by what became of them",
            &Told::ALL.map(Told::as_str),
        )?;
        let expired = IntCounter::new(
            "lazymesh_controller_expired_total",
            "Dependencies forgotten because they were not called for long",
        )?;
        registry.register(Box::new(expired.clone()))?;
        let opts = Opts::new(
            "lazymesh_controller_without_evidence",
            "Workloads of which nothing expires though it should, by reason",
        );
        let without_evidence = IntGaugeVec::new(opts, &["reason"])?;
        registry.register(Box::new(without_evidence.clone()))?;
        let history = Self {
            queries,
            told,
            expired,
            without_evidence,
        };
        history.set_without_evidence(|_| 0);
        Ok(history)
    }

    /// Counts a query that was answered.
    pub fn answered(&self, complete: bool) {
        let result = if complete { ANSWERED } else { INCOMPLETE };
        self.queries.with_label_values(&[result]).inc();
    }

    /// Counts a query that was not.
    pub fn failed(&self, fault: &Fault) {
        self.queries.with_label_values(&[fault.as_str()]).inc();
    }

    /// Counts calls told of.
    pub fn told(&self, told: Told, count: usize) {
        self.told
            .with_label_values(&[told.as_str()])
            .inc_by(count as u64);
    }

    /// Says of how many workloads nothing expires, by reason.
    pub fn set_without_evidence(&self, count: impl Fn(Lack) -> usize) {
        for lack in Lack::ALL {
            let gauge = self.without_evidence.with_label_values(&[lack.as_str()]);
            gauge.set(i64::try_from(count(lack)).unwrap_or(i64::MAX));
        }
    }
}
