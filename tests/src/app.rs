//! What `mesh-app`, the application in the testbed's pods, says about itself and about the calls it makes and gets.
//! Shared by the program and by the test library that reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The echo service that `mesh-app` speaks over gRPC.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod echo {
    tonic::include_proto!("lazymesh.testbed.v1");
}

/// Who a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The pod's name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its workload.
    pub workload: String,
    /// Its `version` label, if any.
    pub version: Option<String>,
}

/// What a server saw of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saw {
    /// `http1`, `http2`, `grpc`, `ws`, `tcp`, `tcp-server-first` or `tls`.
    pub protocol: String,
    /// The port it arrived at.
    pub port: u16,
    /// The HTTP method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The authority, or the `host` header; over TCP the peer's address, over TLS the name the client asked for.
    pub host: String,
    /// All headers, names in lower case; several values of a name joined with ", ".
    pub headers: BTreeMap<String, String>,
    /// The caller's SPIFFE id from the last element of `x-forwarded-client-cert`: the one the receiving sidecar wrote.
    pub caller: Option<String>,
    /// How many bytes of body (over TCP: of payload) arrived.
    pub body_bytes: u64,
    /// Their SHA-256, in hex.
    pub body_sha256: String,
}

/// A server's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub who: Identity,
    /// What it saw.
    pub saw: Saw,
}

/// The outcome of one call, one line of `mesh-app call`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// When the call began, in milliseconds since the program started.
    pub at_ms: f64,
    /// From then to the end of the answer, in milliseconds.
    pub latency_ms: f64,
    /// From its begin to the first byte of the answer's body, in milliseconds; of plain HTTP calls.
    pub first_byte_ms: Option<f64>,
    /// The HTTP status (for gRPC, 200 with a gRPC status 0); none over TCP or when no answer came.
    pub status: Option<u16>,
    /// The answers: one, or as many as the stream had messages.
    pub answers: Vec<Answer>,
    /// The body, when it was no answer of `mesh-app`; the first 2,000 characters.
    pub body: Option<String>,
    /// The answer's headers.
    pub headers: BTreeMap<String, String>,
    /// Why the call failed. A status of 400 and up is a failure as well.
    pub error: Option<String>,
}

impl Outcome {
    /// Whether the call got the answer it was made for.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }
}

/// The caller that the receiving sidecar verified: the URI of the last element of `x-forwarded-client-cert`. Earlier
/// elements may have been written by anybody.
pub fn verified_caller(xfcc: &str) -> Option<String> {
    let last = split_quoted(xfcc, ',').pop()?;
    let field = split_quoted(last, ';')
        .into_iter()
        .find_map(|field| field.trim().strip_prefix("URI="))?;
    Some(field.trim_matches('"').to_owned())
}

/// Splits at `at`, but not inside double quotes (in which `\"` is a plain quote).
fn split_quoted(text: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == at && !quoted => {
                parts.push(&text[start..index]);
                start = index + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::verified_caller;

    #[test]
    fn only_the_last_element_counts() {
        let forged = r#"By=spiffe://x;URI=spiffe://cluster.local/ns/evil/sa/forged,By=spiffe://y;Hash=00;Subject="CN=a,O=b;c";URI=spiffe://cluster.local/ns/shop/sa/client"#;
        assert_eq!(
            verified_caller(forged).as_deref(),
            Some("spiffe://cluster.local/ns/shop/sa/client")
        );
    }

    #[test]
    fn a_quoted_comma_or_a_missing_uri_does_not_mislead() {
        assert_eq!(
            verified_caller(r#"Hash=1;Subject="a,URI=spiffe://forged""#),
            None
        );
        assert_eq!(verified_caller(""), None);
    }
}
