//! What each namespace allows, and where services are, as the controller says.
//!
//! Pure. It never takes a namespace for one that may be relayed unless the controller has said all it knows.

use std::collections::HashMap;
use std::net::IpAddr;

use dependency_graph::api::{FallbackPolicy, Mode, NamespaceMode, WatchResponse};
use dependency_graph::fallback::Policy;
use ipnet::IpNet;

/// `None`: a policy that this version does not know, which may not be taken for a weaker one.
type Known = HashMap<String, Option<Policy>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Policies {
    known: Option<Known>,
    /// A state that is still coming in, after a new watch began.
    coming: Option<Known>,
    connected: bool,
    /// The ranges of services' addresses.
    cidrs: Vec<IpNet>,
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
        let whole = update.snapshot_complete && self.coming.is_some();
        if whole || !update.service_cidrs.is_empty() {
            self.cidrs = ranges(&update.service_cidrs, &mut skipped);
        }
        if let Some(target) = self.coming.as_mut().or(self.known.as_mut()) {
            for namespace in update.namespaces {
                take_in(target, namespace, &mut skipped);
            }
        }
        if update.snapshot_complete
            && let Some(coming) = self.coming.take()
        {
            self.known = Some(coming);
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

    /// What a namespace allows, if that is known. One that the controller has no word of has the default, and only for as
    /// long as the controller is there.
    pub(super) fn policy(&self, namespace: &str) -> Option<Policy> {
        match self.of(namespace) {
            Said::Known(policy) => policy,
            Said::Unlisted => Some(Policy::default()),
        }
    }

    /// Whether an address is one that services have. While no range is known, none is.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

/// How many ranges are kept: more than any cluster has.
const MOST_RANGES: usize = 1000;

fn ranges(texts: &[String], skipped: &mut Vec<String>) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for text in texts.iter().take(MOST_RANGES) {
        match text.parse() {
            Ok(range) => ranges.push(range),
            Err(_) => skipped.push(format!("service range {text:?}")),
        }
    }
    ranges
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
        assert_eq!(policies.policy("shop"), None);
        policies.apply(update(vec![], true));
        assert_eq!(policies.of("shop"), Said::Known(Some(Policy::RelayOnly)));
    }

    #[test]
    fn what_was_known_stays_when_the_controller_goes_away() {
        let shop = namespace("shop", Mode::Sidecar, FallbackPolicy::RedirectOnly);
        let mut policies = known(vec![shop]);
        assert_eq!(policies.policy("unlisted"), Some(Policy::PreferRedirect));
        policies.connected(false);
        policies.begin();
        assert_eq!(policies.of("shop"), Said::Known(Some(Policy::RedirectOnly)));
        // It may be redirect-only by now.
        assert_eq!(policies.policy("unlisted"), None);
        // And a new state replaces all of it.
        policies.apply(update(vec![], true));
        policies.connected(true);
        for name in ["shop", "unlisted"] {
            assert_eq!(policies.of(name), Said::Unlisted);
        }
    }

    #[test]
    fn changes_are_taken_in() {
        let mut policies = known(vec![]);
        assert_eq!(policies.policy("shop"), Some(Policy::PreferRedirect));
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
    fn services_are_where_the_controller_says() {
        let ranges = |texts: &[&str], complete| WatchResponse {
            service_cidrs: texts.iter().map(|text| (*text).to_owned()).collect(),
            snapshot_complete: complete,
            ..Default::default()
        };
        let mut policies = Policies::default();
        let serves = |policies: &Policies| {
            ["10.96.0.7", "10.97.0.7", "fd00::7"].map(|ip| policies.serves(ip.parse().unwrap()))
        };
        assert_eq!(serves(&policies), [false; 3]);
        policies.begin();
        let skipped = policies.apply(ranges(&["10.96.0.0/16", "ten", "fd00::/112"], true));
        assert_eq!(skipped, ["service range \"ten\""]);
        assert_eq!(serves(&policies), [true, false, true]);
        // Nothing said of them: they are as before, also while nobody is there.
        policies.apply(update(vec![], false));
        policies.connected(false);
        policies.begin();
        assert_eq!(serves(&policies), [true, false, true]);
        policies.apply(ranges(&["10.97.0.0/16"], false));
        assert_eq!(serves(&policies), [false, true, false]);
        // A state without any is one of a mesh without any.
        policies.apply(update(vec![], true));
        assert_eq!(serves(&policies), [false; 3]);
    }
}
