//! What is counted of calls. Every label value is one of a fixed few.

use std::time::Duration;

use dependency_graph::api::call_answer::State;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// What was first said of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is on its way into the caller's Sidecar.
    Pending,
    /// The caller's Sidecar has it.
    Written,
    /// No service of the mesh has that name or address, as far as the caller may see.
    UnknownName,
    /// Nobody knows whose it is.
    UnknownCaller,
    /// The caller's workload is neither in mode `sidecar` nor in mode `on-demand`.
    Mode,
    /// The caller's workload has no Sidecar of ours.
    NoSidecar,
    /// The workload or the namespace has as much as it may have.
    Capped,
    /// The workload told of too many calls at once.
    Throttled,
    /// It is no call.
    Malformed,
    /// It came beyond the number a message may have.
    BatchTooLarge,
    /// This controller knows nothing of the mesh.
    NoMesh,
}

impl Outcome {
    const ALL: [Self; 11] = [
        Self::Pending,
        Self::Written,
        Self::UnknownName,
        Self::UnknownCaller,
        Self::Mode,
        Self::NoSidecar,
        Self::Capped,
        Self::Throttled,
        Self::Malformed,
        Self::BatchTooLarge,
        Self::NoMesh,
    ];

    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Written => "written",
            Self::UnknownName => "unknown_name",
            Self::UnknownCaller => "unknown_caller",
            Self::Mode => "mode",
            Self::NoSidecar => "no_sidecar",
            Self::Capped => "capped",
            Self::Throttled => "throttled",
            Self::Malformed => "malformed",
            Self::BatchTooLarge => "batch_too_large",
            Self::NoMesh => "no_mesh",
        }
    }

    /// As it is said to who asked.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Pending => State::Pending,
            Self::Written => State::Written,
            Self::UnknownName => State::UnknownName,
            Self::UnknownCaller => State::UnknownCaller,
            Self::Mode
            | Self::NoSidecar
            | Self::Capped
            | Self::Throttled
            | Self::Malformed
            | Self::BatchTooLarge
            | Self::NoMesh => State::Refused,
        }
    }
}

/// The metrics of calls.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: IntCounterVec,
    pub(super) open: IntGauge,
    written_seconds: Histogram,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "lazymesh_controller_calls_total",
            "Calls that fell back, by what was first said of them",
        );
        let calls = IntCounterVec::new(opts, &["result"])?;
        registry.register(Box::new(calls.clone()))?;
        for outcome in Outcome::ALL {
            calls.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        let open = IntGauge::new(
            "lazymesh_controller_calls_open",
            "Calls that fell back of which more is to be said",
        )?;
        registry.register(Box::new(open.clone()))?;
        let opts = HistogramOpts::new(
            "lazymesh_controller_call_written_seconds",
            "Seconds from a call that fell back to its service being in the caller's Sidecar",
        );
        let buckets = vec![
            0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        let written_seconds = Histogram::with_opts(opts.buckets(buckets))?;
        registry.register(Box::new(written_seconds.clone()))?;
        Ok(Self {
            calls,
            open,
            written_seconds,
        })
    }

    /// Counts a call.
    pub(super) fn called(&self, outcome: Outcome) {
        self.calls.with_label_values(&[outcome.as_str()]).inc();
    }

    #[cfg(test)]
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.calls.with_label_values(&[outcome.as_str()]).get()
    }

    /// Takes in how long it took until a Sidecar had what was called.
    pub(super) fn written_after(&self, took: Duration) {
        self.written_seconds.observe(took.as_secs_f64());
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
}
