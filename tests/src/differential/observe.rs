//! What one call showed, without what differs from call to call for no reason of ours: ids, dates, addresses, names.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::app::{Answer, Outcome, Saw};

/// What the run's own names are called in scenarios: text and placeholder. The longest are replaced first.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(String, String)>);

impl Names {
    /// From pairs of the run's text and the scenario's placeholder.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(pairs)
    }

    /// These and more.
    #[must_use]
    pub fn with(&self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::new(self.0.iter().cloned().chain(pairs))
    }

    /// The run's text of a scenario's.
    pub fn apply(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (own, placeholder)| {
                text.replace(placeholder, own)
            })
    }

    /// The scenario's text of a run's.
    pub fn take_back(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (own, placeholder)| {
                text.replace(own, placeholder)
            })
    }
}

/// What a server saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// The server's workload.
    pub server: String,
    /// The protocol it arrived in.
    pub protocol: String,
    /// The port it arrived at.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The authority; over TLS the name asked for.
    pub host: String,
    /// Who called, as the server's sidecar verified it: `$SELF`, another one, or nobody.
    pub caller: Option<String>,
    /// The request's headers.
    pub headers: BTreeMap<String, String>,
    /// How many bytes of body.
    pub bytes: u64,
    /// Their hash.
    pub hash: String,
}

/// What a call showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Observation {
    /// The status.
    pub status: Option<u16>,
    /// Why there is no answer: `refused`, `ended` (closed or reset), `timeout`, or the client's own words.
    pub error: Option<String>,
    /// A body that no server of ours wrote.
    pub body: Option<String>,
    /// The answer's headers.
    pub headers: BTreeMap<String, String>,
    /// Who answered, and what it saw.
    pub answers: Vec<Seen>,
    /// All that servers saw of this call, sorted: tries that failed and mirrors too.
    pub arrived: Vec<Seen>,
}

/// Headers whose values are each call's own.
const OWN: [&str; 11] = [
    "x-request-id",
    "x-forwarded-client-cert",
    "x-probe",
    "traceparent",
    "tracestate",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "sec-websocket-key",
    "date",
];

impl Observation {
    /// What a call showed, and what else arrived of it.
    pub fn read(outcome: &Outcome, arrived: &[(String, Saw)], names: &Names) -> Self {
        let text = |text: &str| names.take_back(text);
        let answers: Vec<_> = outcome
            .answers
            .iter()
            .map(|Answer { who, saw }| Seen::read(&who.workload, saw, names))
            .collect();
        let mut headers = own_values_hidden(&outcome.headers, names);
        // Envoy says it only when the answer came after the whole request.
        headers.remove("x-envoy-upstream-service-time");
        if !answers.is_empty() {
            // As long as what the server saw, names and all.
            headers.remove("content-length");
        }
        let mut arrived: Vec<_> = arrived
            .iter()
            .map(|(server, saw)| Seen::read(server, saw, names))
            .collect();
        arrived.sort();
        Self {
            status: outcome.status,
            error: outcome
                .error
                .as_deref()
                .and_then(|error| kind(&text(error))),
            body: outcome.body.as_deref().map(text),
            headers,
            answers,
            arrived,
        }
    }

    /// The same, whoever the servers were.
    #[must_use]
    pub fn whoever_answered(&self) -> Self {
        let mut same = self.clone();
        for seen in same.answers.iter_mut().chain(&mut same.arrived) {
            seen.server.clear();
            // A server without a sidecar, or one that knows no caller, is another server's difference.
            seen.port = 0;
            seen.hash.clear();
        }
        same.arrived.sort();
        same
    }

    /// Whether it is made of what some of these are made of: of several servers that each were one of several, as where a
    /// call is mirrored, not every combination need have been seen.
    pub fn combines(&self, some: &BTreeSet<&Self>) -> bool {
        let whoever = self.whoever_answered();
        let alike = || some.iter().filter(|one| one.whoever_answered() == whoever);
        let all = |part: fn(&Self) -> &[Seen]| {
            let known: BTreeSet<_> = alike().flat_map(|one| part(one)).collect();
            part(self).iter().all(|seen| known.contains(seen))
        };
        alike().next().is_some() && all(|one| &one.answers) && all(|one| &one.arrived)
    }

    /// Whether nothing came of it but this kind of error.
    pub fn leads_nowhere(&self, error: &str) -> bool {
        self.error.as_deref() == Some(error)
            && self.status.is_none()
            && self.answers.is_empty()
            && self.arrived.is_empty()
    }

    /// The servers that answered.
    pub fn servers(&self) -> Vec<&str> {
        self.answers
            .iter()
            .map(|seen| seen.server.as_str())
            .collect()
    }
}

impl Seen {
    fn read(server: &str, saw: &Saw, names: &Names) -> Self {
        let text = |text: &str| names.take_back(text);
        Self {
            server: server.to_owned(),
            protocol: saw.protocol.clone(),
            port: saw.port,
            method: saw.method.clone(),
            path: text(&saw.path),
            host: text(&saw.host),
            caller: saw.caller.as_deref().map(text),
            headers: own_values_hidden(&saw.headers, names),
            bytes: saw.body_bytes,
            hash: saw.body_sha256.clone(),
        }
    }
}

fn own_values_hidden(
    headers: &BTreeMap<String, String>,
    names: &Names,
) -> BTreeMap<String, String> {
    let shown = |(name, value): (&String, &String)| {
        let value = if OWN.contains(&name.as_str()) {
            "*".to_owned()
        } else {
            names.take_back(value)
        };
        (name.clone(), value)
    };
    headers.iter().map(shown).collect()
}

/// The kind of an error. A bad status is none: the status says it.
fn kind(error: &str) -> Option<String> {
    if error.starts_with("status ") {
        return None;
    }
    let kinds = [
        ("Connection refused", "refused"),
        // Closed or reset: that is a race between the client's bytes and the end.
        ("reset by peer", "ended"),
        ("Broken pipe", "ended"),
        ("closed before", "ended"),
        ("closed without", "ended"),
        ("without a head", "ended"),
        ("channel closed", "ended"),
        ("connection closed", "ended"),
        ("connection reset", "ended"),
        ("connection was not ready", "ended"),
        ("broken pipe", "ended"),
        ("Handshake not finished", "ended"),
        ("grpc Cancelled: operation was canceled", "ended"),
        ("grpc Unknown: connection error", "ended"),
        // Envoy's answer while the request still streams, with a reset behind it that may overtake it.
        (
            "grpc Unavailable: upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            "ended",
        ),
        // The alert of a server that then closes may be cut off by that.
        ("waiting for an answer: received fatal alert", "ended"),
        ("not an answer: \u{15}", "ended"),
        // What a server of another protocol said may be cut off as well.
        ("http2 error: connection error detected", "ended"),
        ("not an answer: HTTP/1.1 400", "ended"),
        // A server that speaks first, and not HTTP, and then resets: its words may be there before the request is out, and the
        // reset before they are read.
        ("invalid HTTP version parsed", "ended"),
        ("received unexpected message from connection", "ended"),
        ("close_notify", "ended"),
        ("unexpected EOF", "ended"),
        ("handshake eof", "ended"),
        ("no answer within", "timeout"),
    ];
    let known = kinds.iter().find(|(text, _)| error.contains(text));
    Some(known.map_or_else(|| error.to_owned(), |(_, kind)| (*kind).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Identity;

    fn names(service_account: &str) -> Names {
        let of = |text: &str, placeholder: &str| (text.to_owned(), placeholder.to_owned());
        Names::new([
            of("differential-1", "$M"),
            of("differential-12", "$A"),
            of(
                &format!("spiffe://cluster.local/ns/differential-12/sa/{service_account}"),
                "$SELF",
            ),
            of(&format!("call-{service_account}"), "$CALL"),
        ])
    }

    fn outcome(service_account: &str) -> Outcome {
        let header = |name: &str, value: String| (name.to_owned(), value);
        let saw = Saw {
            path: format!("/?fail_key=call-{service_account}"),
            host: "web.differential-12.svc".to_owned(),
            caller: Some(format!(
                "spiffe://cluster.local/ns/differential-12/sa/{service_account}"
            )),
            headers: BTreeMap::from([
                header("x-request-id", format!("1-{service_account}")),
                header("x-kept", "differential-1/x".to_owned()),
            ]),
            ..Saw::default()
        };
        Outcome {
            status: Some(200),
            headers: BTreeMap::from([
                header("date", format!("now {service_account}")),
                header("content-length", service_account.len().to_string()),
                header("server", "envoy".to_owned()),
            ]),
            answers: vec![Answer {
                who: Identity::default(),
                saw,
            }],
            ..Outcome::default()
        }
    }

    #[test]
    fn what_is_each_callers_own_is_the_same_for_both() {
        let read = |account: &str| Observation::read(&outcome(account), &[], &names(account));
        assert_eq!(read("plain"), read("lazily"));
        let seen = &read("plain").answers[0];
        assert_eq!(seen.caller.as_deref(), Some("$SELF"));
        assert_eq!(seen.host, "web.$A.svc");
        assert_eq!(seen.headers["x-kept"], "$M/x");
        assert_eq!(seen.path, "/?fail_key=$CALL");
        assert_eq!(read("plain").headers["server"], "envoy");
    }

    #[test]
    fn another_callers_identity_is_not_ones_own() {
        let mut forged = outcome("plain");
        forged.answers[0].saw.caller =
            Some("spiffe://cluster.local/ns/differential-12/sa/x".into());
        let read = Observation::read(&forged, &[], &names("plain"));
        assert_ne!(
            read,
            Observation::read(&outcome("plain"), &[], &names("plain"))
        );
    }

    #[test]
    fn errors_have_kinds() {
        for (error, expected) in [
            (
                "connect: Connection refused (os error 111)",
                Some("refused"),
            ),
            (
                "request: connection closed before message completed",
                Some("ended"),
            ),
            (
                "waiting for an answer: Connection reset by peer",
                Some("ended"),
            ),
            ("no answer within 8s", Some("timeout")),
            ("request: invalid HTTP version parsed", Some("ended")),
            (
                "request: operation was canceled: received unexpected message from connection",
                Some("ended"),
            ),
            ("status 503 no healthy upstream", None),
            (
                "the handshake: received fatal alert: HandshakeFailure",
                Some("the handshake: received fatal alert: HandshakeFailure"),
            ),
            ("grpc Unavailable: x", Some("grpc Unavailable: x")),
            (
                "grpc Unavailable: upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                Some("ended"),
            ),
        ] {
            assert_eq!(kind(error).as_deref(), expected);
        }
    }
}
