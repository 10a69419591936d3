//! What each namespace allows, as the controller says.
//!
//! Pure. It never takes a namespace for one that may be relayed unless the controller has said all it knows.

use std::collections::HashMap;

use dependency_graph::api::{FallbackPolicy, Mode, NamespaceMode, WatchResponse};
use dependency_graph::fallback::Policy;

/// How many namespaces are remembered that the controller did not name. Callers' certificates name them, so there are
/// no more than the mesh has.
const MOST_UNLISTED: usize = 10_000;

/// `None`: a policy that this version does not know, which may not be taken for a weaker one.
type Known = HashMap<String, Option<Policy>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Policies {
    known: Option<Known>,
    /// A state that is still coming in, after a new watch began.
    coming: Option<Known>,
    connected: bool,
    unlisted: usize,
}

/// What is known of a namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Said {
    /// This; `None` when nothing may be done.
    Known(Option<Policy>),
    /// The controller is there and has no word of it.
    Unlisted,
}

impl Policies {
    /// A new watch begins: what comes until the state is complete replaces what is known.
    pub(super) fn begin(&mut self) {
        self.coming = Some(Known::new());
    }

    /// Takes in an update. Entries that are not understood are named; nothing is done for them.
    pub(super) fn apply(&mut self, update: WatchResponse) -> Vec<String> {
        let mut skipped = Vec::new();
        if let Some(target) = self.coming.as_mut().or(self.known.as_mut()) {
            for namespace in update.namespaces {
                take_in(target, namespace, &mut skipped);
            }
        }
        if update.snapshot_complete
            && let Some(coming) = self.coming.take()
        {
            self.known = Some(coming);
            self.unlisted = 0;
        }
        skipped
    }

    /// Whether what is known is kept up to date.
    pub(super) fn connected(&mut self, connected: bool) {
        self.connected = connected;
    }

    pub(super) fn of(&self, namespace: &str) -> Said {
        let Some(known) = &self.known else {
            return Said::Known(None);
        };
        match known.get(namespace) {
            Some(policy) => Said::Known(*policy),
            None if self.connected => Said::Unlisted,
            // It may have come since, and allow nothing but redirects.
            None => Said::Known(None),
        }
    }

    /// Gives a namespace that the controller has no word of the default, and remembers it for when it is away.
    pub(super) fn assume(&mut self, namespace: &str) -> Option<Policy> {
        match (self.of(namespace), &mut self.known) {
            (Said::Known(policy), _) => policy,
            (Said::Unlisted, Some(known)) => {
                if self.unlisted < MOST_UNLISTED {
                    known.insert(namespace.to_owned(), Some(Policy::default()));
                    self.unlisted += 1;
                }
                Some(Policy::default())
            }
            (Said::Unlisted, None) => None,
        }
    }
}

fn take_in(known: &mut Known, namespace: NamespaceMode, skipped: &mut Vec<String>) {
    let policy = match FallbackPolicy::try_from(namespace.fallback) {
        Ok(FallbackPolicy::Unspecified) if namespace.mode == i32::from(Mode::Unspecified) => {
            known.remove(&namespace.namespace);
            return;
        }
        Ok(FallbackPolicy::Unspecified) => Some(Policy::default()),
        Ok(FallbackPolicy::PreferRedirect) => Some(Policy::PreferRedirect),
        Ok(FallbackPolicy::RedirectOnly) => Some(Policy::RedirectOnly),
        Ok(FallbackPolicy::RelayOnly) => Some(Policy::RelayOnly),
        Err(_) => {
            skipped.push(format!("{namespace:?}"));
            None
        }
    };
    known.insert(namespace.namespace, policy);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, mode: Mode, fallback: FallbackPolicy) -> NamespaceMode {
        NamespaceMode {
            namespace: name.into(),
            mode: mode.into(),
            fallback: fallback.into(),
        }
    }

    fn update(namespaces: Vec<NamespaceMode>, complete: bool) -> WatchResponse {
        WatchResponse {
            namespaces,
            snapshot_complete: complete,
            ..Default::default()
        }
    }

    fn known(namespaces: Vec<NamespaceMode>) -> Policies {
        let mut policies = Policies::default();
        policies.begin();
        assert_eq!(policies.apply(update(namespaces, true)), [""; 0]);
        policies.connected(true);
        policies
    }

    #[test]
    fn nothing_is_known_before_all_is() {
        let mut policies = Policies::default();
        assert_eq!(policies.of("shop"), Said::Known(None));
        policies.begin();
        let shop = namespace("shop", Mode::Sidecar, FallbackPolicy::RelayOnly);
        policies.apply(update(vec![shop], false));
        assert_eq!(policies.of("shop"), Said::Known(None));
        assert_eq!(policies.assume("shop"), None);
        policies.apply(update(vec![], true));
        assert_eq!(policies.of("shop"), Said::Known(Some(Policy::RelayOnly)));
    }

    #[test]
    fn what_was_known_stays_when_the_controller_goes_away() {
        let shop = namespace("shop", Mode::Sidecar, FallbackPolicy::RedirectOnly);
        let mut policies = known(vec![shop]);
        assert_eq!(policies.assume("unlisted"), Some(Policy::PreferRedirect));
        policies.connected(false);
        policies.begin();
        assert_eq!(policies.of("shop"), Said::Known(Some(Policy::RedirectOnly)));
        let unlisted = policies.of("unlisted");
        assert_eq!(unlisted, Said::Known(Some(Policy::PreferRedirect)));
        // One that nobody asked for may be new.
        assert_eq!(policies.of("other"), Said::Known(None));
        // And a new state replaces all of it.
        policies.apply(update(vec![], true));
        policies.connected(true);
        for name in ["shop", "unlisted", "other"] {
            assert_eq!(policies.of(name), Said::Unlisted);
        }
    }

    #[test]
    fn changes_are_taken_in() {
        let mut policies = known(vec![]);
        assert_eq!(policies.assume("shop"), Some(Policy::PreferRedirect));
        let mut say = |mode, fallback| {
            policies.apply(update(vec![namespace("shop", mode, fallback)], false));
            policies.of("shop")
        };
        for (fallback, policy) in [
            (FallbackPolicy::Unspecified, Policy::PreferRedirect),
            (FallbackPolicy::RedirectOnly, Policy::RedirectOnly),
            (FallbackPolicy::RelayOnly, Policy::RelayOnly),
            (FallbackPolicy::PreferRedirect, Policy::PreferRedirect),
        ] {
            assert_eq!(say(Mode::Sidecar, fallback), Said::Known(Some(policy)));
        }
        // Of one that opts out its wish still holds, as long as it is there.
        let only = say(Mode::Unspecified, FallbackPolicy::RedirectOnly);
        assert_eq!(only, Said::Known(Some(Policy::RedirectOnly)));
        let gone = say(Mode::Unspecified, FallbackPolicy::Unspecified);
        assert_eq!(gone, Said::Unlisted);
    }

    #[test]
    fn an_unknown_policy_allows_nothing() {
        let mut policies = known(vec![]);
        let mut odd = namespace("shop", Mode::Sidecar, FallbackPolicy::RelayOnly);
        odd.fallback = 99;
        assert_eq!(policies.apply(update(vec![odd], false)).len(), 1);
        assert_eq!(policies.of("shop"), Said::Known(None));
    }

    #[test]
    fn unlisted_names_are_bounded() {
        let mut policies = known(vec![]);
        for i in 0..=MOST_UNLISTED {
            let assumed = policies.assume(&format!("n{i}"));
            assert_eq!(assumed, Some(Policy::PreferRedirect));
        }
        assert_eq!(policies.unlisted, MOST_UNLISTED);
        assert_eq!(policies.of(&format!("n{MOST_UNLISTED}")), Said::Unlisted);
    }
}
