use super::*;
use crate::incoming::Caller;
use crate::xfcc::SpiffeId;
use http::Version;
use proptest::prelude::*;

const SETTINGS: Settings = Settings {
    tries: 6,
    body: 60_000,
    body_wait: Duration::from_millis(100),
    hold: Duration::from_secs(2),
};

fn incoming(path: Path, tries: u8) -> Incoming {
    Incoming {
        caller: Caller {
            spiffe: SpiffeId::parse("spiffe://td/ns/shop/sa/client").unwrap(),
            pod: None,
        },
        original: "10.0.0.1:80".parse().unwrap(),
        tries,
        path,
    }
}

fn shape(kind: Kind) -> Shape {
    Shape {
        kind,
        version: Version::HTTP_11,
        expects_100: false,
    }
}

/// A request that can be redirected, of a namespace that prefers it, whose Sidecar was written long ago.
#[derive(Clone, Debug)]
struct Case {
    incoming: Incoming,
    shape: Shape,
    body: BodySeen,
    policy: Option<Policy>,
    answer: Answer,
    waited: Duration,
    controller_up: bool,
    serves: bool,
    sayable: bool,
}

impl Case {
    fn new(policy: Policy) -> Self {
        Self {
            incoming: incoming(Path::Routed, 0),
            shape: shape(Kind::Plain),
            body: BodySeen::Empty,
            policy: Some(policy),
            answer: Answer::Written {
                age: Duration::from_secs(9),
            },
            waited: Duration::ZERO,
            controller_up: true,
            serves: true,
            sayable: true,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn step(&self) -> Step {
        let now = Situation {
            incoming: &self.incoming,
            shape: &self.shape,
            body: self.body,
            policy: self.policy,
            answer: self.answer,
            waited: self.waited,
            controller_up: self.controller_up,
            serves: self.serves,
            sayable: self.sayable,
        };
        step(&now, &SETTINGS)
    }
}

fn prefer() -> Case {
    Case::new(Policy::PreferRedirect)
}

fn only() -> Case {
    Case::new(Policy::RedirectOnly)
}

/// Everything that keeps a request from being redirected for good.
fn not_redirectable(case: &Case) -> Vec<(&'static str, Case)> {
    let one = |name, change: fn(&mut Case)| (name, case.clone().with(change));
    vec![
        one("direct", |c| c.incoming.path = Path::Direct),
        one("upgrade", |c| c.shape.kind = Kind::Upgrade),
        one("connect", |c| c.shape.kind = Kind::Connect),
        one("extended", |c| c.shape.kind = Kind::ExtendedConnect),
        one("expect", |c| c.shape.expects_100 = true),
        one("unsayable", |c| c.sayable = false),
        one("too large", |c| c.body = BodySeen::TooLarge),
        one("longer than kept", |c| {
            c.body = BodySeen::Complete {
                bytes: 60_001,
                trailers: false,
            };
        }),
        one("trailers", |c| {
            c.body = BodySeen::Complete {
                bytes: 1,
                trailers: true,
            };
        }),
        one("open after the wait", |c| {
            c.body = BodySeen::Open { bytes: 1 };
            c.waited = SETTINGS.hold;
        }),
        one("tries used up", |c| c.incoming.tries = 6),
        one("tries unreadable", |c| c.incoming.tries = u8::MAX),
        one("refused", |c| c.answer = Answer::Refused { service: true }),
        one("unknown caller", |c| {
            c.answer = Answer::UnknownCaller { service: true };
        }),
        one("controller away", |c| {
            c.answer = Answer::Unheard;
            c.controller_up = false;
            c.waited = Duration::from_millis(200);
        }),
        one("held too long", |c| {
            c.answer = Answer::Pending;
            c.waited = Duration::from_secs(2);
        }),
    ]
}

#[test]
fn of_an_unknown_namespace_nothing_is_carried() {
    for path in [Path::Routed, Path::Direct] {
        let case = prefer().with(|c| {
            c.policy = None;
            c.incoming.path = path;
        });
        assert_eq!(
            case.step(),
            Step::Refuse(Refusal::PolicyUnknown("shop".into()))
        );
    }
}

#[test]
fn relay_only_relays_at_once() {
    let case = Case::new(Policy::RelayOnly);
    let relay = Step::Relay(Why::RelayOnly);
    assert_eq!(case.step(), relay);
    for (name, case) in not_redirectable(&case) {
        assert_eq!(case.step(), relay, "{name}");
    }
    let unheard = case.with(|c| c.answer = Answer::Unheard);
    assert_eq!(unheard.step(), Step::AwaitAnswer(CONTROLLER_AWAY));
    let silent = unheard.with(|c| c.waited = CONTROLLER_AWAY);
    assert_eq!(silent.step(), relay);
    // Without a controller nobody is waited for.
    let alone = silent.with(|c| c.waited = Duration::MAX);
    assert_eq!(alone.step(), relay);
}

/// Every way to be carried.
fn carried_otherwise(case: &Case) -> Vec<(&'static str, Case)> {
    let cases = not_redirectable(case).into_iter();
    let of_policy = [
        "refused",
        "unknown caller",
        "controller away",
        "held too long",
    ];
    cases
        .filter(|(name, _)| !of_policy.contains(name))
        .collect()
}

#[test]
fn what_is_no_service_is_never_carried() {
    for policy in [Policy::PreferRedirect, Policy::RelayOnly] {
        for (name, case) in carried_otherwise(&Case::new(policy)) {
            for answer in [
                Answer::UnknownName,
                Answer::Refused { service: false },
                Answer::UnknownCaller { service: false },
            ] {
                let step = case.clone().with(|c| c.answer = answer).step();
                let refused = matches!(&step, Step::Refuse(why) if why.reason() == "no_service");
                // A body may still come.
                let reads = matches!(step, Step::ReadBody(_)) && answer == Answer::UnknownName;
                assert!(refused || reads, "{name} {answer:?}: {step:?}");
            }
            for answer in [
                Answer::Pending,
                Answer::Refused { service: true },
                Answer::UnknownCaller { service: true },
            ] {
                let step = case.clone().with(|c| c.answer = answer).step();
                assert!(
                    matches!(step, Step::Relay(_)),
                    "{name} {answer:?}: {step:?}"
                );
            }
        }
    }
}

#[test]
fn without_an_answer_only_what_has_an_address_of_services_is_carried() {
    for policy in [Policy::PreferRedirect, Policy::RelayOnly] {
        let direct = Case::new(policy).with(|c| {
            c.incoming.path = Path::Direct;
            c.answer = Answer::Unheard;
            c.waited = Duration::from_millis(50);
        });
        let left = Duration::from_millis(150);
        for serves in [true, false] {
            let early = direct.clone().with(|c| c.serves = serves);
            assert_eq!(early.step(), Step::AwaitAnswer(left));
            let step = early.with(|c| c.waited = CONTROLLER_AWAY).step();
            match step {
                Step::Relay(_) => assert!(serves),
                Step::Refuse(why) => {
                    assert_eq!((why.status().as_u16(), serves), (502, false));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_answer_may_come_before_the_watch_knows_the_namespace() {
    let unknown = prefer().with(|c| {
        c.policy = None;
        c.answer = Answer::Unheard;
    });
    assert_eq!(unknown.step(), Step::AwaitAnswer(CONTROLLER_AWAY));
    let refused = Step::Refuse(Refusal::PolicyUnknown("shop".into()));
    let late = unknown.clone().with(|c| c.waited = CONTROLLER_AWAY);
    let away = unknown.with(|c| c.controller_up = false);
    for case in [late, away] {
        assert_eq!(case.step(), refused);
    }
}

#[test]
fn redirect_only_waits_longer_for_a_body() {
    let open = only().with(|c| {
        c.body = BodySeen::Open { bytes: 1 };
        c.waited = Duration::from_millis(300);
    });
    assert_eq!(open.step(), Step::ReadBody(Duration::from_millis(1700)));
}

#[test]
fn what_can_be_redirected_is() {
    for case in [prefer(), only()] {
        assert_eq!(case.step(), Step::Redirect { tries: 1 });
        let grpc = case.clone().with(|c| c.shape.kind = Kind::Grpc);
        assert_eq!(grpc.step(), Step::Redirect { tries: 1 });
        let small = case.clone().with(|c| {
            c.body = BodySeen::Complete {
                bytes: 60_000,
                trailers: false,
            };
        });
        assert_eq!(small.step(), Step::Redirect { tries: 1 });
    }
}

#[test]
fn the_try_after_the_last_pause_is_counted() {
    let case = prefer().with(|c| {
        c.incoming.tries = 5;
        c.waited = Duration::from_millis(400);
    });
    assert_eq!(case.step(), Step::Redirect { tries: 6 });
}

#[test]
fn it_waits_for_what_it_needs() {
    let written = |ms| Answer::Written {
        age: Duration::from_millis(ms),
    };
    let fresh = prefer().with(|c| c.answer = written(20));
    assert_eq!(fresh.step(), Step::Pause(Duration::from_millis(100)));
    for answer in [Answer::Unheard, Answer::Pending] {
        let case = prefer().with(|c| {
            c.answer = answer;
            c.waited = Duration::from_millis(500);
        });
        assert_eq!(case.step(), Step::AwaitAnswer(Duration::from_millis(1500)));
    }
    let away = prefer().with(|c| {
        c.answer = Answer::Unheard;
        c.controller_up = false;
        c.waited = Duration::from_millis(50);
    });
    assert_eq!(away.step(), Step::AwaitAnswer(Duration::from_millis(150)));
    let open = prefer().with(|c| {
        c.body = BodySeen::Open { bytes: 10 };
        c.waited = Duration::from_millis(30);
    });
    assert_eq!(open.step(), Step::ReadBody(Duration::from_millis(70)));
}

#[test]
fn prefer_redirect_relays_the_rest_and_says_why() {
    let relayed = not_redirectable(&prefer())
        .into_iter()
        .map(|(name, case)| match case.step() {
            Step::Relay(why) => why,
            other => panic!("{name}: {other:?}"),
        });
    let mut reasons: Vec<_> = relayed.map(Why::as_str).collect();
    reasons.push(Why::RelayOnly.as_str());
    // Each reason is there.
    for why in Why::ALL {
        assert!(reasons.contains(&why.as_str()), "{why:?}");
    }
}

#[test]
fn only_a_connection_of_no_route_sticks_once_the_sidecar_is_taken() {
    let written = |ms| Answer::Written {
        age: Duration::from_millis(ms),
    };
    assert!(sticks(Path::Direct, written(500)));
    assert!(!sticks(Path::Direct, written(499)));
    assert!(!sticks(Path::Routed, written(9999)));
    for answer in [
        Answer::Unheard,
        Answer::Pending,
        Answer::UnknownName,
        Answer::UnknownCaller { service: true },
        Answer::Refused { service: true },
    ] {
        assert!(!sticks(Path::Direct, answer));
    }
}

#[test]
fn redirect_only_refuses_the_rest_and_says_why() {
    for (name, case) in not_redirectable(&only()) {
        match case.step() {
            Step::Refuse(refusal @ Refusal::RedirectOnly { .. }) => {
                assert_eq!(refusal.status(), 503, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_name_goes_where_plain_istio_sends_it() {
    for case in [prefer(), only(), Case::new(Policy::RelayOnly)] {
        let unknown = case.with(|c| c.answer = Answer::UnknownName);
        assert_eq!(unknown.step(), Step::Plain);
    }
    let unknown = |case: Case| {
        case.with(|c| {
            c.answer = Answer::UnknownName;
            c.shape.kind = Kind::Upgrade;
        })
    };
    for case in [prefer(), only(), Case::new(Policy::RelayOnly)] {
        let refused = unknown(case).step();
        let right = matches!(&refused, Step::Refuse(why) if why.reason() == "no_service");
        assert!(right, "{refused:?}");
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let policy = prop_oneof![
        Just(None),
        Just(Some(Policy::PreferRedirect)),
        Just(Some(Policy::RedirectOnly)),
        Just(Some(Policy::RelayOnly)),
    ];
    let path = prop_oneof![Just(Path::Routed), Just(Path::Direct)];
    let kind = prop_oneof![
        Just(Kind::Plain),
        Just(Kind::Grpc),
        Just(Kind::Upgrade),
        Just(Kind::Connect),
    ];
    let body = prop_oneof![
        Just(BodySeen::Empty),
        Just(BodySeen::TooLarge),
        (0usize..90_000).prop_map(|bytes| BodySeen::Open { bytes }),
        (0usize..90_000, any::<bool>())
            .prop_map(|(bytes, trailers)| BodySeen::Complete { bytes, trailers }),
    ];
    let answer = prop_oneof![
        Just(Answer::Unheard),
        Just(Answer::Pending),
        Just(Answer::UnknownName),
        any::<bool>().prop_map(|service| Answer::Refused { service }),
        any::<bool>().prop_map(|service| Answer::UnknownCaller { service }),
        (0u64..500).prop_map(|ms| Answer::Written {
            age: Duration::from_millis(ms)
        }),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (policy, path, kind, body, answer, 0u8..9, flags).prop_map(
        |(policy, path, kind, body, answer, tries, (expects, up, sayable))| Case {
            incoming: incoming(path, tries),
            shape: Shape {
                expects_100: expects,
                ..shape(kind)
            },
            body,
            policy,
            answer,
            waited: Duration::ZERO,
            controller_up: up,
            serves: answer != Answer::Pending,
            sayable,
        },
    )
}

proptest! {
    /// Whatever happens while it waits, it comes to an end; redirect-only never relays; the last try is never spent.
    #[test]
    fn it_ends_and_keeps_its_word(mut case in any_case(), completes: bool, answers: u8) {
        let mut answers = answers;
        for waits in 0..=6 {
            let step = case.step();
            prop_assert!(
                !(case.policy == Some(Policy::RedirectOnly) && matches!(step, Step::Relay(_))),
                "redirect-only relays"
            );
            let waits_for_word = matches!(step, Step::AwaitAnswer(_));
            prop_assert!(case.policy.is_some() || waits_for_word || matches!(step, Step::Refuse(_)));
            let no_service = matches!(
                case.answer,
                Answer::UnknownName
                    | Answer::Refused { service: false }
                    | Answer::UnknownCaller { service: false }
            );
            prop_assert!(!(no_service && matches!(step, Step::Relay(_))), "carries what is none");
            match step {
                Step::ReadBody(at_most) => {
                    case.waited += at_most;
                    if completes {
                        case.body = BodySeen::Complete { bytes: 5, trailers: false };
                    }
                }
                Step::AwaitAnswer(at_most) => {
                    case.answer = match (case.answer, answers & 1) {
                        (Answer::Unheard, 1) => Answer::Pending,
                        (Answer::Pending, 1) => Answer::Written { age: Duration::ZERO },
                        (same, _) => { case.waited += at_most; same }
                    };
                    answers >>= 1;
                }
                Step::Pause(time) => {
                    case.waited += time;
                    if let Answer::Written { age } = &mut case.answer {
                        *age += time;
                    }
                }
                Step::Redirect { tries } => {
                    prop_assert!(tries <= SETTINGS.tries && case.incoming.path == Path::Routed);
                    return Ok(());
                }
                Step::Plain | Step::Relay(_) | Step::Refuse(_) => return Ok(()),
            }
            prop_assert!(waits < 6, "does not end");
        }
    }
}
