//! Every reason for which a request is not carried, and how it is said: over HTTP and over gRPC.
//!
//! Pure. It never decides that a request is refused.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use thiserror::Error;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRFC A6: after how many milliseconds a client may try again.
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Why a request is not carried.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// No verified caller.
    #[error(
        "no verified caller: neither x-forwarded-client-cert nor, in a tunnel, x-lazymesh-caller names one SPIFFE id \
         (hint: callers reach the global proxy over mutual TLS, through its own sidecar)"
    )]
    NoCaller,
    /// The caller's Envoy did not say where the request was going.
    #[error(
        "no original destination: x-lazymesh-original-dst is missing (hint: requests come here by the fallback \
         route, which sets it)"
    )]
    NoDestination,
    /// The original destination cannot be read.
    #[error(
        "the original destination (x-lazymesh-original-dst, or what a tunnel is opened to) must be one IP address \
         with a port, not {0:?}"
    )]
    BadDestination(String),
    /// The original destination is no address of a service.
    #[error("{0} is not an address that traffic is carried to")]
    ForbiddenDestination(SocketAddr),
    /// What is called is no service, as far as is known, or not one that the caller may see.
    #[error(
        "nothing is carried to {to}: {why} (hint: only services of the mesh are reached by the fallback, those that the \
         caller's namespace sees)"
    )]
    NoService {
        /// The original destination.
        to: SocketAddr,
        /// What is known of it.
        why: &'static str,
    },
    /// It came past the fallback route.
    #[error(
        "x-lazymesh-tries is missing: requests come here by the fallback route of the caller's Envoy, which sets it \
         (hint: call the service, not the global proxy)"
    )]
    NotRouted,
    /// The request breaks a rule of HTTP.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The request asks for what cannot be carried.
    #[error("not carried: {0}")]
    NotImplemented(&'static str),
    /// A limit is reached.
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
    /// Nothing is known of what the namespace allows.
    #[error(
        "what namespace {0:?} allows is not known yet, and nothing is relayed unasked (hint: the lazyload controller at \
         --controller says it; --policy does where there is none)"
    )]
    PolicyUnknown(String),
    /// The namespace wants no relaying.
    #[error(
        "namespace {namespace:?} is redirect-only, and this request cannot be redirected: {why} (hint: add the \
         host to spec.pinned of the workload's WorkloadDependencies)"
    )]
    RedirectOnly {
        /// The caller's namespace.
        namespace: String,
        /// What keeps it from being redirected.
        why: &'static str,
    },
    /// No connection; nothing was sent.
    #[error("cannot connect to {to}: {why}")]
    Connect {
        /// The original destination.
        to: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// No connection in time; nothing was sent.
    #[error("no connection to {0} in time")]
    ConnectTimeout(SocketAddr),
    /// It ended without an answer after the request was sent: perhaps processed, so never sent again.
    #[error("{to} ended without an answer: {why}")]
    NoAnswer {
        /// The original destination.
        to: SocketAddr,
        /// What was seen.
        why: String,
    },
}

impl Refusal {
    /// Every value of [`Refusal::reason`].
    pub const REASONS: [&'static str; 14] = [
        "no_caller",
        "no_destination",
        "bad_destination",
        "forbidden_destination",
        "no_service",
        "not_routed",
        "malformed",
        "not_implemented",
        "overloaded",
        "policy_unknown",
        "redirect_only",
        "connect",
        "connect_timeout",
        "no_answer",
    ];

    /// A short name, for metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCaller => "no_caller",
            Self::NoDestination => "no_destination",
            Self::BadDestination(_) => "bad_destination",
            Self::ForbiddenDestination(_) => "forbidden_destination",
            Self::NoService { .. } => "no_service",
            Self::NotRouted => "not_routed",
            Self::Malformed(_) => "malformed",
            Self::NotImplemented(_) => "not_implemented",
            Self::Overloaded(_) => "overloaded",
            Self::PolicyUnknown(_) => "policy_unknown",
            Self::RedirectOnly { .. } => "redirect_only",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout(_) => "connect_timeout",
            Self::NoAnswer { .. } => "no_answer",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoCaller | Self::ForbiddenDestination(_) | Self::NotRouted => {
                StatusCode::FORBIDDEN
            }
            Self::NoDestination | Self::BadDestination(_) | Self::Malformed(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Overloaded(_)
            | Self::PolicyUnknown(_)
            | Self::RedirectOnly { .. }
            | Self::Connect { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::NoAnswer { .. } | Self::NoService { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The gRPC code, by gRPC's own table from HTTP status to code.
    fn grpc_code(&self) -> &'static str {
        match self.status() {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::FORBIDDEN => "7",
            StatusCode::NOT_IMPLEMENTED => "12",
            _ => "14",
        }
    }

    /// Whether it passes by itself, so that trying again soon makes sense.
    fn passes(&self) -> bool {
        matches!(self, Self::Overloaded(_) | Self::PolicyUnknown(_))
    }

    /// Whether the connection is not worth keeping: its next bytes may not be what they seem, or there are too many.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::NotImplemented(_) | Self::Overloaded(_)
        )
    }

    /// The answer. `grpc`: to a gRPC call, which is told in gRPC's own way (a response of headers only).
    #[must_use]
    pub fn response(&self, grpc: bool) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        if grpc {
            *response.headers_mut() = self.grpc_headers();
            return response;
        }
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.passes() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        *response.body_mut() = Full::from(format!("global-proxy: {self}\n"));
        response
    }

    fn grpc_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_code()));
        let text = format!("global-proxy: {self}");
        if let Ok(text) = HeaderValue::from_str(&percent_encoded(&text)) {
            headers.insert(GRPC_MESSAGE, text);
        }
        if self.passes() {
            headers.insert(GRPC_PUSHBACK, HeaderValue::from_static("1000"));
        }
        headers
    }
}

/// As gRPC over HTTP/2 has `grpc-message`: all but printable ASCII without `%`.
fn percent_encoded(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'%') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out.into()
}

/// Says over HTTP/1 that the connection ends with this answer.
pub fn close(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> Vec<Refusal> {
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        vec![
            Refusal::NoCaller,
            Refusal::NoDestination,
            Refusal::BadDestination("x".into()),
            Refusal::ForbiddenDestination(to),
            Refusal::NoService {
                to,
                why: "it is none",
            },
            Refusal::NotRouted,
            Refusal::Malformed("two Hosts"),
            Refusal::NotImplemented("this"),
            Refusal::Overloaded("streams"),
            Refusal::PolicyUnknown("shop".into()),
            Refusal::RedirectOnly {
                namespace: "shop".into(),
                why: "its body is open",
            },
            Refusal::Connect {
                to,
                why: "refused".into(),
            },
            Refusal::ConnectTimeout(to),
            Refusal::NoAnswer {
                to,
                why: "reset".into(),
            },
        ]
    }

    #[test]
    fn each_reason_is_listed_once() {
        let reasons: BTreeSet<_> = all().iter().map(Refusal::reason).collect();
        assert_eq!(reasons, BTreeSet::from(Refusal::REASONS));
    }

    #[test]
    fn over_http_it_is_an_error_with_a_text() {
        for refusal in all() {
            let response = refusal.response(false);
            let status = response.status();
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{refusal}"
            );
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                refusal.passes()
            );
            assert!(!response.headers().contains_key(GRPC_STATUS));
        }
        let overloaded = Refusal::Overloaded("streams").response(false);
        assert_eq!(overloaded.status(), 503);
        assert_eq!(overloaded.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn over_grpc_it_is_a_status_in_headers() {
        for refusal in all() {
            let response = refusal.response(true);
            assert_eq!(response.status(), 200, "{refusal}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert!(response.headers().contains_key(GRPC_MESSAGE), "{refusal}");
        }
        let overloaded = Refusal::Overloaded("streams").response(true);
        assert_eq!(overloaded.headers()[GRPC_STATUS], "14");
        assert_eq!(overloaded.headers()[GRPC_PUSHBACK], "1000");
        assert_eq!(Refusal::NoCaller.response(true).headers()[GRPC_STATUS], "7");
    }

    #[test]
    fn a_hostile_destination_cannot_break_the_message() {
        let refusal = Refusal::BadDestination("1%\r\nx: y é".into());
        let response = refusal.response(true);
        let message = response.headers()[GRPC_MESSAGE].to_str().unwrap();
        assert!(
            message.contains("%25") && message.contains("%C3%A9"),
            "{message}"
        );
    }
}
