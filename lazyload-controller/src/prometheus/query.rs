//! The questions, in PromQL on Istio's standard metrics.

use std::time::Duration;

use dependency_graph::Protocol;

/// Whose calls are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scope {
    /// `source_workload_namespace`.
    pub namespace: String,
    /// `source_workload`; empty stands for all.
    pub workloads: Vec<String>,
}

/// The counter that tells of a call when it begins, or ends. There is one as long as its sidecar runs.
fn counter(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "istio_requests_total",
        Protocol::Tcp => "istio_tcp_connections_opened_total",
    }
}

/// Counters that grow while a call lasts: a stream or connection may be used for longer than anyone remembers when it
/// began.
fn while_it_lasts(protocol: Protocol) -> [&'static str; 2] {
    match protocol {
        Protocol::Http => [
            "istio_request_messages_total",
            "istio_response_messages_total",
        ],
        Protocol::Tcp => [
            "istio_tcp_sent_bytes_total",
            "istio_tcp_received_bytes_total",
        ],
    }
}

impl Scope {
    fn selector(&self) -> String {
        let namespace = quoted(&self.namespace);
        let mut selector = format!(
            r#"{{reporter="source",source_workload_namespace={namespace},destination_service!="""#
        );
        if !self.workloads.is_empty() {
            // Every other sign of a name stands for itself in a regular expression as well.
            let names: Vec<String> = self
                .workloads
                .iter()
                .map(|name| name.replace('.', "[.]"))
                .collect();
            let names = quoted(&names.join("|"));
            selector.push_str(&format!(",source_workload=~{names}"));
        }
        selector + "}"
    }

    /// Each workload and service between which there was a call in the time before the moment asked for.
    ///
    /// `increase` sees no call in a counter that comes with its first one, as every counter of Istio's does; so those
    /// that were not there when the time began count as well. A sidecar that could not be asked for a while comes anew,
    /// which errs on the side of keeping.
    #[must_use]
    pub fn called(&self, protocol: Protocol, window: Duration) -> String {
        let (selector, seconds) = (self.selector(), window.as_secs().max(1));
        let by = "by (source_workload, destination_service)";
        let grew = std::iter::once(counter(protocol))
            .chain(while_it_lasts(protocol))
            .map(|metric| format!("sum {by} (increase({metric}{selector}[{seconds}s])) > 0"));
        let metric = format!("{}{selector}", counter(protocol));
        let came = format!(
            "count {by} (last_over_time({metric}[{seconds}s]) unless {metric} offset {seconds}s)"
        );
        grew.chain([came]).collect::<Vec<_>>().join(" or ")
    }

    /// For each workload at how many moments, so far apart, of that time it had any series.
    #[must_use]
    pub fn present(&self, protocol: Protocol, window: Duration, step: Duration) -> String {
        let (metric, selector) = (counter(protocol), self.selector());
        let (seconds, step) = (window.as_secs().max(1), step.as_secs().max(1));
        format!(
            "count_over_time((count by (source_workload) ({metric}{selector}))[{seconds}s:{step}s])"
        )
    }
}

/// A text in PromQL.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n");
    format!("\"{escaped}\"")
}
