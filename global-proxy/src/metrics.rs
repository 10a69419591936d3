//! What the global proxy counts. Every label value is one of a fixed few.

use dependency_graph::api::call_answer::State;
use http::Version;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::access_log::Outcome;
use crate::decide::Why;
use crate::refuse::Refusal;
use crate::tunnel;

/// What becomes of an exchange that is not refused.
const CARRIED: [Outcome; 5] = [
    Outcome::Relayed,
    Outcome::Redirected,
    Outcome::Plain,
    Outcome::CallerCut,
    Outcome::ServerCut,
];

const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const STATES: [State; 5] = [
    State::Pending,
    State::Written,
    State::UnknownName,
    State::UnknownCaller,
    State::Refused,
];

fn state_label(state: State) -> &'static str {
    match state {
        State::Unspecified => "unspecified",
        State::Pending => "pending",
        State::Written => "written",
        State::UnknownName => "unknown_name",
        State::UnknownCaller => "unknown_caller",
        State::Refused => "refused",
    }
}

/// The metrics of a global proxy.
#[derive(Clone, Debug)]
pub struct Metrics {
    exchanges: IntCounterVec,
    bytes_sent: IntCounter,
    bytes_received: IntCounter,
    tunnels: IntCounterVec,
    tunnel_sent: IntCounter,
    tunnel_received: IntCounter,
    /// Tunnels open now.
    pub tunnels_open: IntGauge,
    /// Seconds from a request to the head of its answer.
    pub head_seconds: Histogram,
    /// Seconds for which requests were held before it was decided what becomes of them.
    pub hold_seconds: Histogram,
    relays: Vec<IntCounter>,
    answers: IntCounterVec,
    /// Calls that the controller has not settled yet.
    pub reports_pending: IntGauge,
    /// Calls that were not reported because too many were waiting.
    pub reports_dropped: IntCounter,
    /// Whether it is known what namespaces allow, and kept up to date.
    pub controller_watch: IntGauge,
    /// Whether the controller takes calls.
    pub controller_calls: IntGauge,
    /// Connections of callers open now.
    pub connections: IntGauge,
    /// Connections of callers turned away at once.
    pub connections_shed: IntCounter,
    /// Connections to servers open now.
    pub upstream_connections: IntGauge,
    /// Connections to servers opened.
    pub dials: IntCounter,
    /// Requests that went out on a connection that was there.
    pub reused: IntCounter,
    /// Requests sent again because the connection had closed before anything of them went out.
    pub resent: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("lazymesh_proxy_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("lazymesh_proxy_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let opts = Opts::new(
            "lazymesh_proxy_exchanges_total",
            "Requests, by the HTTP they came in and what became of them",
        );
        let exchanges = IntCounterVec::new(opts, &["protocol", "outcome"])?;
        registry.register(Box::new(exchanges.clone()))?;
        let outcomes = CARRIED.map(Outcome::as_str).into_iter();
        for outcome in outcomes.chain(Refusal::REASONS) {
            for protocol in ["http1", "http2"] {
                exchanges.with_label_values(&[protocol, outcome]).inc_by(0);
            }
        }
        let opts = Opts::new(
            "lazymesh_proxy_tunnels_total",
            "Tunnels, by what became of them; the requests in those of HTTP count as exchanges",
        );
        let tunnels = IntCounterVec::new(opts, &["outcome"])?;
        registry.register(Box::new(tunnels.clone()))?;
        let carried = tunnel::Outcome::CARRIED.map(tunnel::Outcome::as_str);
        for outcome in carried.into_iter().chain(Refusal::REASONS) {
            tunnels.with_label_values(&[outcome]).inc_by(0);
        }
        let seconds = |name: &str, help: &str| {
            let opts = HistogramOpts::new(format!("lazymesh_proxy_{name}"), help);
            let histogram = Histogram::with_opts(opts.buckets(BUCKETS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let opts = Opts::new(format!("lazymesh_proxy_{name}_total"), help);
            let counters = IntCounterVec::new(opts, &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let relays = counters(
            "relays",
            "Requests that were to be relayed, by what kept them from being redirected",
            "why",
        )?;
        let answers = counters("answers", "Answers of the controller, by state", "state")?;
        for state in STATES {
            answers.with_label_values(&[state_label(state)]).inc_by(0);
        }
        Ok(Self {
            relays: Why::ALL
                .map(|why| relays.with_label_values(&[why.as_str()]))
                .into(),
            answers,
            hold_seconds: seconds(
                "hold_seconds",
                "Seconds for which requests were held before it was decided what becomes of them",
            )?,
            reports_pending: gauge(
                "reports_pending",
                "Calls that the controller has not settled yet",
            )?,
            reports_dropped: counter(
                "reports_dropped",
                "Calls not reported because too many were waiting",
            )?,
            controller_watch: gauge(
                "controller_watch_connected",
                "1 while what namespaces allow is kept up to date",
            )?,
            controller_calls: gauge(
                "controller_calls_connected",
                "1 while the controller takes calls",
            )?,
            exchanges,
            bytes_sent: counter("request_bytes", "Bytes of request bodies")?,
            bytes_received: counter("response_bytes", "Bytes of response bodies")?,
            head_seconds: seconds(
                "head_seconds",
                "Seconds from a request to the head of its answer",
            )?,
            tunnels,
            tunnel_sent: counter("tunnel_sent_bytes", "Bytes of callers in tunnels")?,
            tunnel_received: counter("tunnel_received_bytes", "Bytes of servers in tunnels")?,
            tunnels_open: gauge("tunnels", "Tunnels open now")?,
            connections: gauge("connections", "Connections of callers open now")?,
            connections_shed: counter("connections_shed", "Connections turned away at once")?,
            upstream_connections: gauge("upstream_connections", "Connections to servers open now")?,
            dials: counter("dials", "Connections to servers opened")?,
            reused: counter("reused", "Requests sent on a connection that was there")?,
            resent: counter(
                "resent",
                "Requests sent again because nothing of them had gone out",
            )?,
        })
    }

    pub(crate) fn relays(&self, why: Why) {
        if let Some(counter) = self.relays.get(why as usize) {
            counter.inc();
        }
    }

    pub(crate) fn answered(&self, state: State) {
        self.answers.with_label_values(&[state_label(state)]).inc();
    }

    pub(crate) fn exchange(&self, version: Version, outcome: &str, sent: u64, received: u64) {
        let protocol = match version {
            Version::HTTP_2 => "http2",
            _ => "http1",
        };
        self.exchanges.with_label_values(&[protocol, outcome]).inc();
        self.bytes_sent.inc_by(sent);
        self.bytes_received.inc_by(received);
    }

    pub(crate) fn tunnel(&self, outcome: &str, sent: u64, received: u64) {
        self.tunnels.with_label_values(&[outcome]).inc();
        self.tunnel_sent.inc_by(sent);
        self.tunnel_received.inc_by(received);
    }
}

/// Counts one up for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_once_only_and_shows_every_outcome() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.exchange(Version::HTTP_2, Outcome::Relayed.as_str(), 1, 2);
        assert!(Metrics::new(&registry).is_err());
        let families = registry.gather();
        let exchanges = families
            .iter()
            .find(|family| family.name().ends_with("exchanges_total"))
            .unwrap();
        let shown = exchanges.get_metric().len();
        assert_eq!(shown, 2 * (CARRIED.len() + Refusal::REASONS.len()));
    }
}
