//! Which route configurations the listeners of a namespace's sidecars use, as the last stream found.
//!
//! A stream asks istiod for these at its beginning, for it to make them while the clusters are still on their way; else it
//! would have nothing to do until listeners came. A guess: what a stream's own listeners do not use it lets go of. Names only go
//! from one stream to another, never what is in them.

use moka::sync::Cache;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Namespaces that are remembered.
const MOST_NAMESPACES: u64 = 10_000;
/// After which time without a stream one is forgotten: longer than streams last.
const IDLE: Duration = Duration::from_secs(3600);
/// Names of one namespace. A mesh has one for each port of HTTP services.
const MOST_NAMES: usize = 200;

/// Those of one namespace. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct RouteNames(Arc<Mutex<BTreeSet<String>>>);

impl RouteNames {
    /// What they were last.
    pub fn get(&self) -> BTreeSet<String> {
        self.0.lock().clone()
    }

    /// What they are, unless they are too many to be guessed.
    pub fn set(&self, names: &BTreeSet<String>) {
        let mut before = self.0.lock();
        if *before != *names && names.len() <= MOST_NAMES {
            before.clone_from(names);
        }
    }
}

/// Those of all namespaces.
#[derive(Debug, Clone)]
pub struct ByNamespace(Cache<String, RouteNames>);

impl Default for ByNamespace {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MOST_NAMESPACES);
        Self(cache.time_to_idle(IDLE).build())
    }
}

impl ByNamespace {
    /// Those of this one.
    pub fn of(&self, namespace: &str) -> RouteNames {
        self.0.get_with_by_ref(namespace, RouteNames::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_what_its_last_stream_found() {
        let all = ByNamespace::default();
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<BTreeSet<_>>();
        all.of("shop").set(&names(&["80", "9080"]));
        all.of("shop").set(&names(&["80"]));
        assert_eq!(all.of("shop").get(), names(&["80"]));
        assert_eq!(all.of("bank").get(), names(&[]));
        let many: BTreeSet<String> = (0..=MOST_NAMES).map(|n| n.to_string()).collect();
        all.of("shop").set(&many);
        assert_eq!(all.of("shop").get(), names(&["80"]));
    }
}
