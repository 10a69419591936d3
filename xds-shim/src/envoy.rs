//! The one place that names `envoy-types`: Envoy's API as the rest of the workspace uses it.

pub use envoy_types::pb::envoy::*;
pub use envoy_types::pb::google;
pub use envoy_types::pb::xds;
