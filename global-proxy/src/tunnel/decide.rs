//! What becomes of a tunnel: HTTP goes to where requests are judged, the rest is relayed or refused.
//!
//! Pure. Asked again after each wait. Nothing is ever relayed, or dialled, unasked: a namespace of which nothing is known
//! is refused, and so is what is no service as far as the controller says. It is asked once it is known whether the caller
//! speaks HTTP, since by that it tells services apart whose port may be either.

use std::time::Duration;

use dependency_graph::Protocol;
use dependency_graph::fallback::Policy;

use super::sniff::Sniffed;
use crate::accepted::Spoken;
use crate::decide::{Answer, Carriage};
use crate::incoming::Incoming;
use crate::refuse::Refusal;

/// How long what begins as HTTP may take to show it, once it has begun. A server may be waited for meanwhile.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long the caller may take to begin before it is taken for one that waits for its server's word.
const SILENCE: Duration = Duration::from_millis(50);
/// How long what cannot be relayed may take to show that it is HTTP, which can be told why. Nobody is waited for.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What a decision is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// As what the controller was asked about it.
    pub(crate) asked: Option<Protocol>,
    /// What is known since.
    pub(crate) word: &'a Word,
    /// What the caller's first bytes say.
    pub(crate) sniffed: Sniffed,
    /// Whether the caller has sent anything.
    pub(crate) begun: bool,
    /// Whether the caller will send no more.
    pub(crate) ended: bool,
    /// Whether the server is dialled.
    pub(crate) dialled: bool,
    /// Whether the server has something to say, or has closed.
    pub(crate) server_first: bool,
    /// Since the caller sent its first byte, or else since it is barred, or else since it came.
    pub(crate) waited: Duration,
}

/// What is known of what a tunnel leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Word {
    /// Nothing yet; it is waited for so long at the most.
    Awaited(Duration),
    /// It may be relayed. What its port is carried as, if that is known.
    Carried(Option<Protocol>),
    /// It may not be relayed.
    Barred(Refusal),
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Ask the controller about it, as a call of this protocol.
    Ask(Protocol),
    /// Dial the server, and listen to both sides.
    Dial,
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

/// What was heard of a tunnel, since it was asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// What the controller said.
    pub(crate) answer: Answer,
    /// What the service's port is carried as.
    pub(crate) protocol: Option<Protocol>,
    /// What the caller's namespace allows.
    pub(crate) policy: Option<Policy>,
    /// Whether services have addresses like the one called.
    pub(crate) serves: bool,
    /// Since it was asked.
    pub(crate) waited: Duration,
}

/// What is known of where a tunnel leads.
pub(crate) fn word(heard: &Heard, came: &Incoming) -> Word {
    let carriage = Carriage::of(heard.answer, heard.serves, heard.waited);
    if let Carriage::Awaited(at_most) = carriage {
        return Word::Awaited(at_most);
    }
    if let Some(refusal) = barred(heard.policy, came.caller.spiffe.namespace()) {
        return Word::Barred(refusal);
    }
    match carriage {
        Carriage::Barred(why) => Word::Barred(Refusal::NoService {
            to: came.original,
            why,
        }),
        Carriage::Carried | Carriage::Awaited(_) => Word::Carried(heard.protocol),
    }
}

/// What to do now.
pub(crate) fn step(now: &Situation<'_>) -> Step {
    let http = matches!(now.sniffed, Sniffed::Http(_));
    match (now.asked, now.word) {
        (None, _) => ask(now),
        // Of a port that may be either it was said to be TCP, as it was asked.
        (Some(Protocol::Tcp), _) if http => Step::Ask(Protocol::Http),
        (_, Word::Awaited(at_most)) => Step::Wait(Some(*at_most)),
        (_, Word::Barred(refusal)) => refuse(now, refusal),
        (_, Word::Carried(protocol)) => carry(now, *protocol),
    }
}

fn left(limit: Duration, waited: Duration) -> Option<Duration> {
    limit.checked_sub(waited).filter(|left| !left.is_zero())
}

fn ask(now: &Situation<'_>) -> Step {
    let patience = if now.begun { PATIENCE } else { SILENCE };
    match now.sniffed {
        Sniffed::Http(_) => Step::Ask(Protocol::Http),
        Sniffed::Unsure if !now.ended => match left(patience, now.waited) {
            Some(left) => Step::Wait(Some(left)),
            None => Step::Ask(Protocol::Tcp),
        },
        Sniffed::Unsure | Sniffed::Bytes => Step::Ask(Protocol::Tcp),
    }
}

fn refuse(now: &Situation<'_>, refusal: &Refusal) -> Step {
    match (now.sniffed, left(LAST_WORD, now.waited)) {
        (Sniffed::Http(spoken), _) => Step::Http(spoken),
        (Sniffed::Unsure, Some(left)) if !now.ended => Step::Wait(Some(left)),
        _ => Step::Refuse(refusal.clone()),
    }
}

fn carry(now: &Situation<'_>, protocol: Option<Protocol>) -> Step {
    match now.sniffed {
        // Its sidecars do not look into what is in there, and neither do we.
        Sniffed::Http(_) if protocol == Some(Protocol::Tcp) => Step::Relay,
        Sniffed::Http(spoken) => Step::Http(spoken),
        Sniffed::Bytes => Step::Relay,
        Sniffed::Unsure if now.ended || now.server_first => Step::Relay,
        // A server of HTTP says nothing before it is asked.
        Sniffed::Unsure if !now.dialled && protocol != Some(Protocol::Http) => Step::Dial,
        // Whoever speaks first is waited for: either side may be silent for as long as it likes.
        Sniffed::Unsure if !now.begun => Step::Wait(None),
        Sniffed::Unsure => match left(PATIENCE, now.waited) {
            Some(left) => Step::Wait(Some(left)),
            None => Step::Relay,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::{Caller, Path};
    use crate::xfcc::SpiffeId;

    const CARRIED: Word = Word::Carried(None);

    /// One that may be relayed, and whose server is dialled.
    const NOW: Situation<'static> = Situation {
        asked: Some(Protocol::Tcp),
        word: &CARRIED,
        sniffed: Sniffed::Unsure,
        begun: false,
        ended: false,
        dialled: true,
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
        let barred = Word::Barred(barred(None, "shop").unwrap());
        for word in [&CARRIED, &Word::Carried(Some(Protocol::Http)), &barred] {
            for server_first in [false, true] {
                let now = Situation {
                    asked: Some(Protocol::Http),
                    word,
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
    fn http_on_a_port_of_tcp_is_bytes() {
        let tcp = Word::Carried(Some(Protocol::Tcp));
        let now = Situation {
            word: &tcp,
            sniffed: HTTP,
            begun: true,
            ..NOW
        };
        // It was asked before it spoke: the port may be either.
        assert_eq!(step(&now), Step::Ask(Protocol::Http));
        let asked = Situation {
            asked: Some(Protocol::Http),
            ..now
        };
        assert_eq!(step(&asked), Step::Relay);
    }

    #[test]
    fn it_is_asked_once_it_is_known_what_is_spoken() {
        let new = Situation {
            asked: None,
            word: &Word::Awaited(Duration::ZERO),
            dialled: false,
            ..NOW
        };
        assert_eq!(step(&new), Step::Wait(Some(SILENCE)));
        let silent = Situation {
            waited: SILENCE,
            ..new
        };
        assert_eq!(step(&silent), Step::Ask(Protocol::Tcp));
        let begun = Situation { begun: true, ..new };
        assert_eq!(step(&begun), Step::Wait(Some(PATIENCE)));
        let half = Situation {
            waited: PATIENCE,
            ..begun
        };
        assert_eq!(step(&half), Step::Ask(Protocol::Tcp));
        for (sniffed, protocol) in [(HTTP, Protocol::Http), (Sniffed::Bytes, Protocol::Tcp)] {
            let spoke = Situation { sniffed, ..begun };
            assert_eq!(step(&spoke), Step::Ask(protocol));
        }
        let ended = Situation { ended: true, ..new };
        assert_eq!(step(&ended), Step::Ask(Protocol::Tcp));
    }

    #[test]
    fn nobody_is_dialled_before_there_is_a_word() {
        let left = Duration::from_millis(70);
        let asked = Situation {
            word: &Word::Awaited(left),
            dialled: false,
            ..NOW
        };
        assert_eq!(step(&asked), Step::Wait(Some(left)));
        let carried = |protocol| {
            let word = Word::Carried(protocol);
            step(&Situation {
                word: &word,
                ..asked
            })
        };
        assert_eq!(carried(None), Step::Dial);
        assert_eq!(carried(Some(Protocol::Tcp)), Step::Dial);
        assert_eq!(carried(Some(Protocol::Http)), Step::Wait(None));
    }

    #[test]
    fn what_is_heard_decides() {
        let came = Incoming {
            caller: Caller {
                spiffe: SpiffeId::parse("spiffe://td/ns/shop/sa/client").unwrap(),
                pod: None,
            },
            original: "10.96.0.7:5432".parse().unwrap(),
            tries: 0,
            path: Path::Direct,
        };
        let heard = Heard {
            answer: Answer::Pending,
            protocol: Some(Protocol::Tcp),
            policy: Some(Policy::PreferRedirect),
            serves: true,
            waited: Duration::ZERO,
        };
        let of = |heard| word(&heard, &came);
        let carried = Word::Carried(Some(Protocol::Tcp));
        for policy in [Policy::PreferRedirect, Policy::RelayOnly] {
            let policy = Some(policy);
            assert_eq!(of(Heard { policy, ..heard }), carried);
        }
        let reason = |heard| match of(heard) {
            Word::Barred(refusal) => refusal.reason(),
            other => panic!("{other:?}"),
        };
        for (policy, why) in [
            (Some(Policy::RedirectOnly), "redirect_only"),
            (None, "policy_unknown"),
        ] {
            assert_eq!(reason(Heard { policy, ..heard }), why);
        }
        for answer in [
            Answer::UnknownName,
            Answer::Refused { service: false },
            Answer::UnknownCaller { service: false },
        ] {
            assert_eq!(reason(Heard { answer, ..heard }), "no_service");
        }
        let unheard = Heard {
            answer: Answer::Unheard,
            protocol: None,
            ..heard
        };
        assert!(matches!(of(unheard), Word::Awaited(_)));
        let silent = Heard {
            waited: Duration::from_millis(200),
            ..unheard
        };
        assert_eq!(of(silent), CARRIED);
        let outside = Heard {
            serves: false,
            ..silent
        };
        assert_eq!(reason(outside), "no_service");
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
        let word = Word::Barred(why);
        let silent = Situation {
            word: &word,
            dialled: false,
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
