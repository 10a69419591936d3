//! The differences that are accepted. `docs/differences.md` argues for each; here is how one is recognised, as
//! narrowly as can be.

use super::observe::Observation;

/// An accepted difference.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name in reports and in `docs/differences.md`.
    pub reason: &'static str,
    is: fn(&Pair<'_>) -> bool,
}

/// What the plain client had, and what the lazy one had on which of its calls.
pub(super) struct Pair<'a> {
    pub(super) plain: &'a Observation,
    pub(super) lazy: &'a Observation,
    /// 0 is its first.
    pub(super) call: usize,
}

/// All of them.
pub const KNOWN: [Known; 3] = [
    Known {
        reason: "unknown-cluster",
        is: unknown_cluster,
    },
    Known {
        reason: "missing-backend",
        is: missing_backend,
    },
    Known {
        reason: "held-body",
        is: held_body,
    },
];

/// Why the lazy client may differ from the plain one as it does.
pub(super) fn reason(pair: &Pair<'_>) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|known| (known.is)(pair))
        .map(|known| known.reason)
}

/// An answer that the caller's own Envoy makes (a fault, a redirect, a refusal), given before the request's body came,
/// says that the connection will be closed. While a first request is held its body comes.
fn held_body(Pair { plain, lazy, call }: &Pair<'_>) -> bool {
    let closes = plain.headers.get("connection").map(String::as_str) == Some("close");
    let mut as_held = (*plain).clone();
    as_held.headers.remove("connection");
    *call == 0
        && closes
        && plain.answers.is_empty()
        && plain.arrived.is_empty()
        && as_held == **lazy
}

/// A route to a cluster that istiod does not have: 503 without a body here, with one there (ADR 3).
fn unknown_cluster(Pair { plain, lazy, .. }: &Pair<'_>) -> bool {
    let over_http = plain.status == Some(503)
        && lazy.status == Some(503)
        && plain.error == lazy.error
        && plain.body.as_deref() == Some("")
        && lazy.body.as_deref() == Some(EMPTY_CLUSTER);
    let over_grpc = plain.error.as_deref() == Some("grpc Unavailable: ")
        && lazy.error.as_deref() == Some(EMPTY_CLUSTER_GRPC);
    reached_nobody(plain, lazy) && (over_http || over_grpc)
}

/// A route of the Gateway API to a service that is not there: it says itself that this is a 500
/// (`cluster_not_found_response_code`), but an empty cluster is found.
fn missing_backend(Pair { plain, lazy, .. }: &Pair<'_>) -> bool {
    let over_http = plain.status == Some(500)
        && plain.error == lazy.error
        && plain.body.as_deref() == Some("")
        && lazy.status == Some(503)
        && lazy.body.as_deref() == Some(EMPTY_CLUSTER);
    let over_grpc = plain.error.as_deref() == Some("grpc Unknown: ")
        && lazy.error.as_deref() == Some(EMPTY_CLUSTER_GRPC);
    reached_nobody(plain, lazy) && (over_http || over_grpc)
}

const EMPTY_CLUSTER: &str = "no healthy upstream";
const EMPTY_CLUSTER_GRPC: &str = "grpc Unavailable: no healthy upstream";

fn reached_nobody(plain: &Observation, lazy: &Observation) -> bool {
    plain.answers.is_empty() && lazy.answers.is_empty() && plain.arrived == lazy.arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Observation {
        Observation {
            status: Some(status),
            body: Some(body.to_owned()),
            ..Observation::default()
        }
    }

    fn excused(plain: &Observation, lazy: &Observation, call: usize) -> Option<&'static str> {
        reason(&Pair { plain, lazy, call })
    }

    #[test]
    fn only_a_first_call_keeps_the_connection_that_its_own_envoy_would_close() {
        let mut plain = refused(418, "fault filter abort");
        let lazy = plain.clone();
        plain.headers.insert("connection".into(), "close".into());
        assert_eq!(excused(&plain, &lazy, 0), Some("held-body"));
        assert_eq!(excused(&plain, &lazy, 1), None);
        assert_eq!(excused(&lazy, &plain, 0), None);
        let mut other = lazy;
        other.body = Some("no healthy upstream".into());
        assert_eq!(excused(&plain, &other, 0), None);
    }

    #[test]
    fn only_an_unknown_clusters_503_is_excused() {
        let (plain, lazy) = (refused(503, ""), refused(503, "no healthy upstream"));
        assert_eq!(excused(&plain, &lazy, 1), Some("unknown-cluster"));
        assert_eq!(excused(&lazy, &plain, 1), None);
        assert_eq!(excused(&refused(404, ""), &lazy, 1), None);
        assert_eq!(excused(&refused(200, ""), &lazy, 1), None);
        assert_eq!(
            excused(&refused(500, ""), &lazy, 1),
            Some("missing-backend")
        );
        assert_eq!(excused(&refused(500, "by the route"), &lazy, 1), None);
    }

    #[test]
    fn every_reason_is_argued_for() {
        let docs = include_str!("../../../docs/differences.md");
        for known in KNOWN {
            assert!(
                docs.contains(&format!("`{}`", known.reason)),
                "{}",
                known.reason
            );
        }
    }
}
