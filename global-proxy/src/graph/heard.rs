//! What the controller said of a call, and how long it may be believed.
//!
//! Pure but for the waking of those who wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dependency_graph::Dependency;
use dependency_graph::api::CallAnswer;
use dependency_graph::api::FallbackPolicy;
use dependency_graph::api::call_answer::State;
use dependency_graph::fallback::Policy;
use tokio::sync::watch;

use crate::decide::Answer;

/// How long it may be believed that a Sidecar is written: from the first redirect to the last, and for the calls next to it.
const WRITTEN: Duration = Duration::from_secs(10);
/// The same of what soon may be otherwise: a service may come, a pod may become known.
const REFUSED: Duration = Duration::from_secs(1);
/// How long a Sidecar may be in the writing before the controller is asked again.
const PENDING: Duration = Duration::from_secs(5);

/// The longest reason that is kept, in characters.
const REASON: usize = 200;

/// What was said, and when. Nothing, to begin with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard(Option<Said>);

#[derive(Clone, Debug, PartialEq)]
struct Said {
    state: State,
    /// For [`State::Written`]: how long ago that was when it was said.
    age: Duration,
    reason: Option<Arc<str>>,
    /// What it is for, if that is a service of the mesh.
    service: Option<Arc<Dependency>>,
    policy: Option<Policy>,
    at: Instant,
}

impl Heard {
    /// What an answer says; `None` when it says nothing that is understood.
    pub(super) fn of(answer: &CallAnswer, now: Instant) -> Option<Self> {
        let state = State::try_from(answer.state).ok()?;
        let reason: String = answer.reason.chars().take(REASON).collect();
        (state != State::Unspecified).then(|| {
            Self(Some(Said {
                state,
                age: Duration::from_millis(answer.written_ms_ago.into()),
                reason: (!reason.is_empty()).then(|| reason.into()),
                service: service(answer).map(Arc::new),
                policy: policy(answer),
                at: now,
            }))
        })
    }

    /// What is said of what no service can be called, without asking.
    pub(super) fn unknown_name(now: Instant) -> Self {
        Self(Some(Said {
            state: State::UnknownName,
            age: Duration::ZERO,
            reason: None,
            service: None,
            policy: None,
            at: now,
        }))
    }

    /// As it is at this moment.
    pub(super) fn answer(&self, now: Instant) -> Answer {
        let Some(said) = &self.0 else {
            return Answer::Unheard;
        };
        match said.state {
            State::Unspecified => Answer::Unheard,
            State::Pending => Answer::Pending,
            State::Written => Answer::Written {
                age: said.age + now.saturating_duration_since(said.at),
            },
            State::UnknownName => Answer::UnknownName,
            State::UnknownCaller => Answer::UnknownCaller {
                service: said.service.is_some(),
            },
            State::Refused => Answer::Refused {
                service: said.service.is_some(),
            },
        }
    }

    /// Whether nothing more is expected to be said.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.0.as_ref().map(|said| said.state);
        !matches!(state, None | Some(State::Unspecified | State::Pending))
    }

    /// Whether it still holds. What was never answered waits in the book, and is not asked a second time.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let Some(said) = &self.0 else { return true };
        let holds = match said.state {
            State::Written => WRITTEN,
            State::Pending => PENDING,
            _ => REFUSED,
        };
        now.saturating_duration_since(said.at) < holds
    }

    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.0.as_ref()?.reason.clone()
    }

    /// The service that the call is for.
    pub(super) fn service(&self) -> Option<Arc<Dependency>> {
        self.0.as_ref()?.service.clone()
    }

    /// What the caller's namespace allows.
    pub(super) fn policy(&self) -> Option<Policy> {
        self.0.as_ref()?.policy
    }

    /// For metrics.
    pub(super) fn state(&self) -> State {
        self.0
            .as_ref()
            .map_or(State::Unspecified, |said| said.state)
    }
}

/// The service that an answer names; none, if it cannot be read.
fn service(answer: &CallAnswer) -> Option<Dependency> {
    answer.resolved.clone()?.try_into().ok()
}

/// The policy that an answer says. One that this version does not know may not be taken for a weaker one.
fn policy(answer: &CallAnswer) -> Option<Policy> {
    match FallbackPolicy::try_from(answer.policy) {
        Ok(FallbackPolicy::Unspecified) => None,
        Ok(FallbackPolicy::PreferRedirect) => Some(Policy::PreferRedirect),
        Ok(FallbackPolicy::RelayOnly) => Some(Policy::RelayOnly),
        Ok(FallbackPolicy::RedirectOnly) | Err(_) => Some(Policy::RedirectOnly),
    }
}

/// Where what is said of a call is heard by all who wait for it.
#[derive(Debug, Default)]
pub(super) struct Told(watch::Sender<Heard>);

impl Told {
    pub(super) fn of(heard: Heard) -> Self {
        Self(watch::Sender::new(heard))
    }

    pub(super) fn say(&self, heard: Heard) {
        self.0.send_replace(heard);
    }

    pub(super) fn heard(&self) -> Heard {
        self.0.borrow().clone()
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.0.borrow().is_fresh(now)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.0.borrow().is_settled()
    }

    /// Returns once something else than `heard` is heard.
    pub(super) async fn differs(&self, heard: &Heard) {
        // The sender is in here: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|now| now != heard).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dependency_graph::api;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn heard(state: State, now: Instant) -> Heard {
        let answer = CallAnswer {
            state: state.into(),
            written_ms_ago: 30,
            reason: "r".repeat(1000),
            ..Default::default()
        };
        Heard::of(&answer, now).unwrap()
    }

    #[test]
    fn what_was_written_grows_older() {
        let now = Instant::now();
        let written = heard(State::Written, now);
        let age = |at| match written.answer(at) {
            Answer::Written { age } => age,
            other => panic!("{other:?}"),
        };
        assert_eq!((age(now), age(now + ms(70))), (ms(30), ms(100)));
        // An older one than the machine's clock can say is none the less old.
        let answer = CallAnswer {
            state: State::Written.into(),
            written_ms_ago: u32::MAX,
            ..Default::default()
        };
        let old = Heard::of(&answer, now).unwrap().answer(now);
        assert_eq!(
            old,
            Answer::Written {
                age: ms(u32::MAX.into())
            }
        );
    }

    #[test]
    fn each_state_holds_for_a_while() {
        let now = Instant::now();
        for (state, holds) in [
            (State::Written, WRITTEN),
            (State::Pending, PENDING),
            (State::UnknownName, REFUSED),
            (State::UnknownCaller, REFUSED),
            (State::Refused, REFUSED),
        ] {
            let heard = heard(state, now);
            assert!(
                heard.is_fresh(now) && !heard.is_fresh(now + holds),
                "{state:?}"
            );
            assert_eq!(heard.is_settled(), state != State::Pending);
            assert_eq!(heard.reason().unwrap().len(), REASON);
        }
        let nothing = Heard::default();
        assert!(nothing.is_fresh(now) && !nothing.is_settled());
        assert_eq!(nothing.answer(now), Answer::Unheard);
    }

    #[test]
    fn a_service_and_a_policy_go_with_it() {
        let now = Instant::now();
        let resolved = |port| {
            Some(api::Dependency {
                host: "reviews.shop.svc.cluster.local".into(),
                port,
                protocol: api::Protocol::Http.into(),
            })
        };
        let with = |resolved, policy| {
            let answer = CallAnswer {
                state: State::Refused.into(),
                resolved,
                policy,
                ..Default::default()
            };
            let heard = Heard::of(&answer, now).unwrap();
            (heard.answer(now), heard.service(), heard.policy())
        };
        let (answer, service, policy) = with(resolved(80), FallbackPolicy::RelayOnly.into());
        assert_eq!(answer, Answer::Refused { service: true });
        let name = "reviews.shop.svc.cluster.local:80/HTTP";
        assert_eq!(service.unwrap().to_string(), name);
        assert_eq!(policy, Some(Policy::RelayOnly));
        // One that cannot be read is none.
        for none in [None, resolved(0), resolved(70_000)] {
            let (answer, service, policy) = with(none, 0);
            assert_eq!(answer, Answer::Refused { service: false });
            assert_eq!((service, policy), (None, None));
        }
        assert_eq!(with(None, 99).2, Some(Policy::RedirectOnly));
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for state in [0, 99, -1] {
            let answer = CallAnswer {
                state,
                ..Default::default()
            };
            assert_eq!(Heard::of(&answer, Instant::now()), None);
        }
    }
}
