//! What becomes of a tunnel: HTTP goes to where requests are judged, the rest is relayed or refused.
//!
//! Pure. Asked again after each wait. Nothing is ever relayed unasked: a namespace of which nothing is known is refused.

use std::time::Duration;

use dependency_graph::fallback::Policy;

use super::sniff::Sniffed;
use crate::accepted::Spoken;
use crate::refuse::Refusal;

/// How long what begins as HTTP may take to show it, once it has begun. A server may be waited for meanwhile.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long what cannot be relayed may take to show that it is HTTP, which can be told why. Nobody is waited for.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What a decision is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// What keeps it from being relayed.
    pub(crate) barred: Option<&'a Refusal>,
    /// What the caller's first bytes say.
    pub(crate) sniffed: Sniffed,
    /// Whether the caller has sent anything.
    pub(crate) begun: bool,
    /// Whether the caller will send no more.
    pub(crate) ended: bool,
    /// Whether the server has something to say, or has closed.
    pub(crate) server_first: bool,
    /// Since the caller sent its first byte, or else since it is barred.
    pub(crate) waited: Duration,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Wait for more, for so long at the most.
    Wait(Option<Duration>),
    /// Serve the requests in it. Whether they are carried is decided for each.
    Http(Spoken),
    /// Carry bytes both ways.
    Relay,
    /// Break it.
    Refuse(Refusal),
}

/// What keeps the bytes of a namespace from being relayed.
pub(crate) fn barred(policy: Option<Policy>, namespace: &str) -> Option<Refusal> {
    match policy {
        Some(Policy::PreferRedirect | Policy::RelayOnly) => None,
        Some(Policy::RedirectOnly) => Some(Refusal::RedirectOnly {
            namespace: namespace.to_owned(),
            why: "it is not HTTP",
        }),
        None => Some(Refusal::PolicyUnknown(namespace.to_owned())),
    }
}

/// What to do now.
pub(crate) fn step(now: &Situation<'_>) -> Step {
    let patience = now.barred.map_or(PATIENCE, |_| LAST_WORD);
    let left = patience.checked_sub(now.waited);
    let left = left.filter(|left| !left.is_zero());
    match (now.sniffed, now.barred) {
        (Sniffed::Http(spoken), _) => Step::Http(spoken),
        (Sniffed::Unsure, Some(_)) if left.is_some() && !now.ended => Step::Wait(left),
        (_, Some(refusal)) => Step::Refuse(refusal.clone()),
        (Sniffed::Bytes, None) => Step::Relay,
        (Sniffed::Unsure, None) if now.ended || now.server_first => Step::Relay,
        // Whoever speaks first is waited for: either side may be silent for as long as it likes.
        (Sniffed::Unsure, None) if !now.begun => Step::Wait(None),
        (Sniffed::Unsure, None) if left.is_some() => Step::Wait(left),
        (Sniffed::Unsure, None) => Step::Relay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Situation<'static> = Situation {
        barred: None,
        sniffed: Sniffed::Unsure,
        begun: false,
        ended: false,
        server_first: false,
        waited: Duration::ZERO,
    };
    const HTTP: Sniffed = Sniffed::Http(Spoken::Http1);

    #[test]
    fn policies() {
        assert_eq!(barred(Some(Policy::PreferRedirect), "shop"), None);
        assert_eq!(barred(Some(Policy::RelayOnly), "shop"), None);
        let refused = barred(Some(Policy::RedirectOnly), "shop").unwrap();
        assert_eq!(refused.reason(), "redirect_only");
        assert!(refused.to_string().contains("\"shop\""), "{refused}");
        assert_eq!(barred(None, "shop").unwrap().reason(), "policy_unknown");
    }

    #[test]
    fn silence_is_waited_out_until_either_side_speaks() {
        for waited in [Duration::ZERO, PATIENCE, PATIENCE * 1000] {
            let now = Situation { waited, ..NOW };
            assert_eq!(step(&now), Step::Wait(None));
            let spoke = Situation {
                server_first: true,
                ..now
            };
            assert_eq!(step(&spoke), Step::Relay);
            let ended = Situation { ended: true, ..now };
            assert_eq!(step(&ended), Step::Relay);
        }
    }

    #[test]
    fn http_is_served_whatever_the_policy() {
        let why = barred(None, "shop");
        for barred in [None, why.as_ref()] {
            for server_first in [false, true] {
                let now = Situation {
                    barred,
                    sniffed: HTTP,
                    begun: true,
                    server_first,
                    waited: PATIENCE,
                    ..NOW
                };
                assert_eq!(step(&now), Step::Http(Spoken::Http1));
            }
        }
    }

    #[test]
    fn a_half_request_line_is_waited_for_a_little() {
        let begun = Situation { begun: true, ..NOW };
        assert_eq!(step(&begun), Step::Wait(Some(PATIENCE)));
        let later = Situation {
            waited: PATIENCE,
            ..begun
        };
        assert_eq!(step(&later), Step::Relay);
        let ended = Situation {
            ended: true,
            ..begun
        };
        assert_eq!(step(&ended), Step::Relay);
        let spoken = Situation {
            server_first: true,
            ..begun
        };
        assert_eq!(step(&spoken), Step::Relay);
    }

    #[test]
    fn what_is_barred_is_refused_once_it_is_not_http() {
        let why = barred(Some(Policy::RedirectOnly), "shop").unwrap();
        let refused = Step::Refuse(why.clone());
        let silent = Situation {
            barred: Some(&why),
            ..NOW
        };
        assert_eq!(step(&silent), Step::Wait(Some(LAST_WORD)));
        let bytes = Situation {
            sniffed: Sniffed::Bytes,
            begun: true,
            ..silent
        };
        assert_eq!(step(&bytes), refused);
        let late = Situation {
            waited: LAST_WORD,
            ..silent
        };
        assert_eq!(step(&late), refused);
        let ended = Situation {
            ended: true,
            ..silent
        };
        assert_eq!(step(&ended), refused);
    }
}
