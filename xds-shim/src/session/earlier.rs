//! What route configurations and listeners were until a moment ago.
//!
//! A call is held by what its proxy has, which istiod may have changed since. When a workload settles, istiod takes almost
//! all virtual hosts and listeners away at once: what was asked for just then is led to by none, while its cluster is
//! still there, since the controller sees to it that clusters go later. Such a call is answered by what its name meant
//! when it was asked for.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long it is remembered at least: longer than a proxy takes to ask, to hear and to acknowledge.
const REMEMBERED: Duration = Duration::from_secs(20);
/// How many earlier forms of one thing are remembered.
const MOST: usize = 4;

/// See the module. The latest first.
#[derive(Debug)]
pub(super) struct Earlier<K, T>(HashMap<K, Vec<Form<T>>>);

#[derive(Debug)]
struct Form<T> {
    what: T,
    /// When it was first looked at.
    since: Option<Instant>,
}

impl<K, T> Default for Earlier<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, T> Earlier<K, T> {
    /// This was so until now.
    pub(super) fn was(&mut self, key: K, what: T) {
        let forms = self.0.entry(key).or_default();
        forms.insert(0, Form { what, since: None });
        forms.truncate(MOST);
    }

    /// What it was, the latest first.
    pub(super) fn of<Q>(&self, key: &Q) -> impl Iterator<Item = &T>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).into_iter().flatten().map(|form| &form.what)
    }

    /// All of it.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.values().flatten().map(|form| &form.what)
    }

    /// Forgets what was looked at long enough ago. To be called now and then.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, forms| {
            forms.retain_mut(|form| {
                let since = *form.since.get_or_insert(now);
                now.saturating_duration_since(since) < REMEMBERED
            });
            !forms.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_come_first_and_all_go_in_time() {
        let (mut earlier, start) = (Earlier::<Box<str>, usize>::default(), Instant::now());
        for number in 0..=MOST {
            earlier.was("80".into(), number);
        }
        let all =
            |earlier: &Earlier<Box<str>, usize>| earlier.of("80").copied().collect::<Vec<_>>();
        assert_eq!(all(&earlier), [4, 3, 2, 1]);
        assert_eq!(earlier.of("81").count(), 0);
        earlier.tidy(start);
        earlier.was("80".into(), 5);
        earlier.tidy(start + Duration::from_secs(19));
        assert_eq!(all(&earlier), [5, 4, 3, 2]);
        earlier.tidy(start + REMEMBERED);
        assert_eq!(all(&earlier), [5]);
        earlier.tidy(start + Duration::from_secs(19) + REMEMBERED);
        assert!(earlier.0.is_empty());
    }
}
