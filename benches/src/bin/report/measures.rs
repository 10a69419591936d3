//! What is measured of a sidecar, by the names of fields.

use crate::show::Unit;

/// A number of each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) title: &'static str,
    /// The field's name with dots.
    pub(crate) field: &'static str,
    pub(crate) unit: Unit,
}

const fn bytes(title: &'static str, field: &'static str) -> Measure {
    let unit = Unit::Bytes;
    Measure { title, field, unit }
}

const fn number(title: &'static str, field: &'static str) -> Measure {
    let unit = Unit::Count;
    Measure { title, field, unit }
}

const fn time(title: &'static str, field: &'static str) -> Measure {
    let unit = Unit::Milliseconds;
    Measure { title, field, unit }
}

const RATE: Measure = Measure {
    title: "steady calls a second",
    field: "steady.rps",
    unit: Unit::PerSecond,
};

/// All of them.
pub(crate) const MEASURES: [Measure; 54] = [
    bytes("from istiod, three services called", "bytes_from_istiod"),
    bytes("to the sidecar, three services called", "bytes_to_sidecar"),
    bytes("of that clusters", "bytes_to_sidecar_by_type.cds"),
    bytes("of that endpoints", "bytes_to_sidecar_by_type.eds"),
    bytes("of that listeners", "bytes_to_sidecar_by_type.lds"),
    bytes("of that routes", "bytes_to_sidecar_by_type.rds"),
    number("clusters", "clusters"),
    number("endpoints", "endpoints"),
    number("listeners", "listeners"),
    number("virtual hosts", "virtual_hosts"),
    bytes(
        "Envoy: config heap before the first call",
        "heap_before_bytes",
    ),
    bytes(
        "Envoy: resident set before the first call",
        "rss_before_bytes",
    ),
    bytes("Envoy: config heap, three services called", "heap_bytes"),
    bytes("Envoy: resident set, three services called", "rss_bytes"),
    bytes("pilot-agent: resident set", "agent_rss_bytes"),
    time("ready after", "ready_ms"),
    time("ready after, the first behind its shim", "ready_alone_ms"),
    time("Envoy's CPU until ready", "ready_cpu_ms"),
    time("first call, HTTP, p50", "first_call_ms.p50"),
    time("first call, HTTP, p90", "first_call_ms.p90"),
    time("first call, HTTP, p99", "first_call_ms.p99"),
    time("later call, HTTP, p50", "later_call_ms.p50"),
    time("later call, HTTP, p90", "later_call_ms.p90"),
    time("later call, HTTP, p99", "later_call_ms.p99"),
    time("first call, TCP, p50", "first_call_tcp_ms.p50"),
    time("first call, TCP, p90", "first_call_tcp_ms.p90"),
    time("first call, TCP, p99", "first_call_tcp_ms.p99"),
    time("later call, TCP, p50", "later_call_tcp_ms.p50"),
    time("later call, TCP, p90", "later_call_tcp_ms.p90"),
    time("later call, TCP, p99", "later_call_tcp_ms.p99"),
    RATE,
    time("steady calls, p50", "steady.p50_ms"),
    time("steady calls, p99", "steady.p99_ms"),
    time("learned after", "learning_ms"),
    time(
        "endpoint change: istiod's CPU",
        "changes.endpoint.istiod_cpu_ms",
    ),
    time(
        "endpoint change: the shim's CPU",
        "changes.endpoint.shim_cpu_ms",
    ),
    time(
        "endpoint change: Envoy's CPU",
        "changes.endpoint.sidecar_cpu_ms",
    ),
    bytes(
        "endpoint change: from istiod",
        "changes.endpoint.bytes_from_istiod",
    ),
    bytes(
        "endpoint change: to the sidecar",
        "changes.endpoint.bytes_to_sidecar",
    ),
    time(
        "endpoint change, unused service: istiod's CPU",
        "changes.unused_endpoint.istiod_cpu_ms",
    ),
    time(
        "endpoint change, unused service: the shim's CPU",
        "changes.unused_endpoint.shim_cpu_ms",
    ),
    time(
        "endpoint change, unused service: Envoy's CPU",
        "changes.unused_endpoint.sidecar_cpu_ms",
    ),
    bytes(
        "endpoint change, unused service: from istiod",
        "changes.unused_endpoint.bytes_from_istiod",
    ),
    bytes(
        "endpoint change, unused service: to the sidecar",
        "changes.unused_endpoint.bytes_to_sidecar",
    ),
    time(
        "new service: istiod's CPU",
        "changes.new_service.istiod_cpu_ms",
    ),
    time(
        "new service: the shim's CPU",
        "changes.new_service.shim_cpu_ms",
    ),
    time(
        "new service: Envoy's CPU",
        "changes.new_service.sidecar_cpu_ms",
    ),
    bytes(
        "new service: from istiod",
        "changes.new_service.bytes_from_istiod",
    ),
    bytes(
        "new service: to the sidecar",
        "changes.new_service.bytes_to_sidecar",
    ),
    time("full push: istiod's CPU", "changes.full_push.istiod_cpu_ms"),
    time("full push: the shim's CPU", "changes.full_push.shim_cpu_ms"),
    time("full push: Envoy's CPU", "changes.full_push.sidecar_cpu_ms"),
    bytes(
        "full push: from istiod",
        "changes.full_push.bytes_from_istiod",
    ),
    bytes(
        "full push: to the sidecar",
        "changes.full_push.bytes_to_sidecar",
    ),
];

/// What the README shows.
pub(crate) const SHORT: [Measure; 6] = [
    bytes("config heap", "heap_bytes"),
    bytes("resident set", "rss_bytes"),
    bytes("config sent to it", "bytes_to_sidecar"),
    number("clusters", "clusters"),
    time("ready after", "ready_ms"),
    time("first call (p50)", "first_call_ms.p50"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_tests::bench_report::{BytesByType, Changes, Cost, Quantiles, Steady, Way};
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// A way with all of its structures there, so that every field has a name.
    fn whole() -> Way {
        Way {
            bytes_to_sidecar_by_type: Some(BytesByType::default()),
            first_call_ms: Some(Quantiles::default()),
            later_call_ms: Some(Quantiles::default()),
            first_call_tcp_ms: Some(Quantiles::default()),
            later_call_tcp_ms: Some(Quantiles::default()),
            steady: Some(Steady::default()),
            changes: Some(Changes {
                endpoint: Some(Cost::default()),
                unused_endpoint: Some(Cost::default()),
                new_service: Some(Cost::default()),
                full_push: Some(Cost::default()),
            }),
            ..Way::default()
        }
    }

    fn names(value: &Value, place: &str, all: &mut BTreeSet<String>) {
        let Some(fields) = value.as_object() else {
            all.insert(place.to_owned());
            return;
        };
        for (name, value) in fields.iter().filter(|(name, _)| *name != "spread") {
            let dot = if place.is_empty() { "" } else { "." };
            names(value, &format!("{place}{dot}{name}"), all);
        }
    }

    #[test]
    fn every_field_is_shown_once() {
        let mut fields = BTreeSet::new();
        names(&serde_json::to_value(whole()).unwrap(), "", &mut fields);
        let shown: Vec<_> = MEASURES.iter().map(|m| m.field.to_owned()).collect();
        assert_eq!(shown.iter().cloned().collect::<BTreeSet<_>>(), fields);
        assert_eq!(shown.len(), fields.len());
        for short in SHORT {
            assert!(fields.contains(short.field), "{}", short.field);
        }
    }
}
