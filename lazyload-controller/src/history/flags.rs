//! How often Prometheus is asked, and how far back.

use std::time::Duration;

use crate::config::{duration, positive};

/// Flags.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Args {
    /// How often Prometheus is asked what workloads in mode observe call
    #[arg(long, env = "LAZYMESH_OBSERVE_PERIOD", default_value = "5m", value_name = "DURATION", value_parser = positive)]
    pub observe_period: Duration,
    /// How far back Prometheus is asked at first: when the controller starts, and when a namespace is opted in
    #[arg(
        long,
        env = "LAZYMESH_HISTORY",
        default_value = "7d",
        value_name = "DURATION",
        value_parser = positive
    )]
    pub history: Duration,
    /// After which time without a call a dependency is forgotten, where neither the record's spec.expireAfter nor the
    /// annotation lazymesh.dev/expire-after of its namespace says. Default: never
    #[arg(
        long,
        env = "LAZYMESH_EXPIRE_AFTER",
        value_name = "DURATION",
        value_parser = duration,
        requires = "url"
    )]
    pub expire_after: Option<Duration>,
    /// How often it is looked what is to be forgotten
    #[arg(long, env = "LAZYMESH_EXPIRY_PERIOD", default_value = "1h", value_name = "DURATION", value_parser = positive)]
    pub expiry_period: Duration,
}
