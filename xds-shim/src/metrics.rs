//! What the shim counts. Every label has a fixed set of values.

use crate::ads;
use crate::store::Store;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// See the module.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Open ADS streams, by what the proxy gets: `on_demand`, or the reason it gets everything.
    pub streams: IntGaugeVec,
    /// ADS streams that ended, by whose doing.
    pub ended: IntCounterVec,
    /// Bytes of ADS responses, by type, as they came from istiod.
    pub from_istiod: IntCounterVec,
    /// Bytes of ADS responses, by type, as they went to proxies.
    pub to_proxies: IntCounterVec,
    /// Responses that proxies refused, by type.
    pub nacks: IntCounterVec,
    /// Services asked for on demand.
    pub asks: IntCounter,
    /// Other gRPC calls relayed.
    pub relayed: IntCounter,
    /// Observations the controller has not stored yet.
    pub pending: IntGauge,
    /// Observations dropped because too many were waiting.
    pub dropped: IntCounter,
    /// Whether the controller's watch is open.
    pub controller: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has some of that name already.
    pub fn new(registry: &Registry, store: &Store) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(format!("lazymesh_shim_{name}"), help), &[label])
        };
        let opts = |name: &str, help: &str| Opts::new(format!("lazymesh_shim_{name}"), help);
        let metrics = Self {
            streams: IntGaugeVec::new(
                opts("streams", "Open ADS streams, by what the proxy gets"),
                &["treatment"],
            )?,
            ended: counter(
                "streams_ended_total",
                "ADS streams that ended, by whose doing",
                "by",
            )?,
            from_istiod: counter(
                "istiod_response_bytes_total",
                "Bytes of ADS responses from istiod",
                "type",
            )?,
            to_proxies: counter(
                "proxy_response_bytes_total",
                "Bytes of ADS responses to proxies",
                "type",
            )?,
            nacks: counter("nacks_total", "Responses that proxies refused", "type")?,
            asks: IntCounter::with_opts(opts("asks_total", "Services asked for on demand"))?,
            relayed: IntCounter::with_opts(opts(
                "relayed_calls_total",
                "Other gRPC calls relayed",
            ))?,
            pending: IntGauge::with_opts(opts(
                "reports_pending",
                "Observations that the controller has not stored yet",
            ))?,
            dropped: IntCounter::with_opts(opts(
                "reports_dropped_total",
                "Observations dropped because too many were waiting",
            ))?,
            controller: IntGauge::with_opts(opts(
                "controller_connected",
                "1 while the controller's watch is open",
            ))?,
        };
        let all: [Box<dyn Collector>; 11] = [
            Box::new(metrics.streams.clone()),
            Box::new(metrics.ended.clone()),
            Box::new(metrics.from_istiod.clone()),
            Box::new(metrics.to_proxies.clone()),
            Box::new(metrics.nacks.clone()),
            Box::new(metrics.asks.clone()),
            Box::new(metrics.relayed.clone()),
            Box::new(metrics.pending.clone()),
            Box::new(metrics.dropped.clone()),
            Box::new(metrics.controller.clone()),
            Box::new(StoreSize::new(store.clone())?),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(metrics)
    }
}

/// The store's size, looked up when somebody asks.
#[derive(Debug)]
struct StoreSize {
    store: Store,
    resources: IntGauge,
    bytes: IntGauge,
}

impl StoreSize {
    fn new(store: Store) -> Result<Self, prometheus::Error> {
        Ok(Self {
            store,
            resources: IntGauge::new("lazymesh_shim_store_resources", "Distinct resources held")?,
            bytes: IntGauge::new(
                "lazymesh_shim_store_bytes",
                "Bytes of distinct resources held",
            )?,
        })
    }
}

impl Collector for StoreSize {
    fn desc(&self) -> Vec<&Desc> {
        [self.resources.desc(), self.bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (resources, bytes) = self.store.size();
        self.resources
            .set(i64::try_from(resources).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        [self.resources.collect(), self.bytes.collect()].concat()
    }
}

/// A short word for a type URL: one of a fixed set.
pub fn type_label(type_url: &str) -> &'static str {
    match type_url {
        ads::CDS => "cds",
        ads::EDS => "eds",
        ads::LDS => "lds",
        ads::RDS => "rds",
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret" => "sds",
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig" => "ecds",
        "type.googleapis.com/istio.networking.nds.v1.NameTable" => "nds",
        "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig" => "pcds",
        _ => "other",
    }
}
