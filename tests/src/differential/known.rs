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
pub const KNOWN: [Known; 2] = [
    Known {
        reason: "unknown-cluster",
        is: unknown_cluster,
    },
    Known {
        reason: "first-connection-reset",
        is: first_connection_reset,
    },
];

/// Why the lazy client may differ from the plain one as it does.
pub(super) fn reason(pair: &Pair<'_>) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|known| (known.is)(pair))
        .map(|known| known.reason)
}

/// A connection that leads nowhere is closed as soon as that is known. A client that speaks first sees its end, or
/// a reset where its bytes came before that: those of a held connection have.
fn first_connection_reset(Pair { plain, lazy, call }: &Pair<'_>) -> bool {
    let ended = |observation: &Observation, error: &str| {
        *observation
            == Observation {
                error: Some(error.to_owned()),
                ..Observation::default()
            }
    };
    *call == 0 && ended(plain, "closed") && ended(lazy, "reset")
}

/// A route to a cluster that istiod does not have: 503 without a body here, with one there (ADR 3).
fn unknown_cluster(Pair { plain, lazy, .. }: &Pair<'_>) -> bool {
    const WORDS: &str = "no healthy upstream";
    let nobody_saw_it =
        plain.answers.is_empty() && lazy.answers.is_empty() && plain.arrived == lazy.arrived;
    let over_http = plain.status == Some(503)
        && lazy.status == Some(503)
        && plain.error == lazy.error
        && plain.body.as_deref() == Some("")
        && lazy.body.as_deref() == Some(WORDS);
    let over_grpc = plain.error.as_deref() == Some("grpc Unavailable: ")
        && lazy.error.as_deref() == Some("grpc Unavailable: no healthy upstream");
    nobody_saw_it && (over_http || over_grpc)
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
    fn only_the_first_connection_may_be_reset_and_only_where_it_leads_nowhere() {
        let ended = |error: &str| Observation {
            error: Some(error.to_owned()),
            ..Observation::default()
        };
        let (plain, lazy) = (ended("closed"), ended("reset"));
        assert_eq!(excused(&plain, &lazy, 0), Some("first-connection-reset"));
        assert_eq!(excused(&plain, &lazy, 1), None);
        assert_eq!(excused(&lazy, &plain, 0), None);
        assert_eq!(excused(&refused(200, ""), &lazy, 0), None);
    }

    #[test]
    fn only_an_unknown_clusters_503_is_excused() {
        let (plain, lazy) = (refused(503, ""), refused(503, "no healthy upstream"));
        assert_eq!(excused(&plain, &lazy, 1), Some("unknown-cluster"));
        assert_eq!(excused(&lazy, &plain, 1), None);
        assert_eq!(excused(&refused(404, ""), &lazy, 1), None);
        assert_eq!(excused(&refused(200, ""), &lazy, 1), None);
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
