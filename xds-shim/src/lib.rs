//! ADS relay between istiod and sidecars that gives each sidecar only what its workload uses.

pub mod envoy;
