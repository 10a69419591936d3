//! How much is learned at most, and how often what is known is written again.

use std::time::Duration;

/// The limits that hold for every workload.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Dependencies of one workload: hosts times ports.
    pub dependencies: usize,
    /// Records in one namespace. The names of workloads come from proxies; this keeps a lying one from filling etcd.
    pub workloads: usize,
    /// How old a written last call must be before a later one is written over it.
    pub refresh_after: Duration,
    /// The oldest call that is believed.
    pub oldest: Duration,
    /// How far in the future a call may lie: clocks differ.
    pub newest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dependencies: 1000,
            workloads: 2000,
            refresh_after: Duration::from_secs(6 * 3600),
            oldest: Duration::from_secs(30 * 24 * 3600),
            newest: Duration::from_secs(600),
        }
    }
}
