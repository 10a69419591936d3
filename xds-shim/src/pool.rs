//! Large values of which streams that were given the same share one.
//!
//! istiod gives most proxies the same, thousands of things in a large mesh. A stream makes its own first, and only then
//! looks for an equal one: it never finds here what istiod did not give on that very stream.

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};

/// What can be shared. Its large parts are shared themselves: their addresses tell them.
pub trait Alike {
    /// Equal for equal values, and mostly for these only: of values with one key one alone is shared.
    fn key(&self, hasher: &RandomState) -> u64;
    /// Whether another one is equal.
    fn is_alike(&self, other: &Self) -> bool;
}

/// A value that may be shared.
#[derive(Debug)]
pub struct Shared<T> {
    value: T,
    /// Where it is found, if it is shared.
    place: Option<Place<T>>,
}

#[derive(Debug)]
struct Place<T> {
    key: u64,
    home: Weak<Home<T>>,
}

impl<T> Shared<T> {
    /// Whether it is as it was when it was to be shared.
    pub fn is_as_shared(&self) -> bool {
        self.place.is_some()
    }

    /// One's own, to be changed: a copy, if it is shared.
    pub fn edit(this: &mut Arc<Self>) -> &mut T
    where
        T: Clone,
    {
        if this.is_as_shared() {
            *this = Arc::new(Self::from(this.value.clone()));
        }
        &mut Arc::make_mut(this).value
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self { value, place: None }
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Self::from(T::default())
    }
}

impl<T: Clone> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self::from(self.value.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if let Some(place) = &self.place
            && let Some(home) = place.home.upgrade()
        {
            home.forget(place.key);
        }
    }
}

#[derive(Debug)]
struct Home<T> {
    hasher: RandomState,
    values: Mutex<HashMap<u64, Weak<Shared<T>>>>,
}

impl<T> Home<T> {
    fn forget(&self, key: u64) {
        let mut values = self.values.lock();
        // Another stream may have put a live one in its place.
        if values
            .get(&key)
            .is_some_and(|value| value.strong_count() == 0)
        {
            values.remove(&key);
        }
    }
}

/// All that are shared.
#[derive(Debug)]
pub struct Pool<T>(Arc<Home<T>>);

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Arc::new(Home {
            hasher: RandomState::default(),
            values: Mutex::default(),
        }))
    }
}

impl<T: Alike> Pool<T> {
    /// The one that is shared of this value, which becomes it if there is none yet.
    pub fn share(&self, value: T) -> Arc<Shared<T>> {
        let key = value.key(&self.0.hasher);
        if let Some(there) = self.get(key).filter(|there| there.is_alike(&value)) {
            return there;
        }
        let home = Arc::downgrade(&self.0);
        let place = Some(Place { key, home });
        let shared = Arc::new(Shared { value, place });
        let there = {
            let mut values = self.0.values.lock();
            let there = values.get(&key).and_then(Weak::upgrade);
            if there.is_none() {
                values.insert(key, Arc::downgrade(&shared));
            }
            there
        };
        match there {
            // Another stream was faster.
            Some(there) if there.is_alike(&shared) => there,
            // One of other parts and the same key keeps the place: this one is not shared.
            _ => shared,
        }
    }

    fn get(&self, key: u64) -> Option<Arc<Shared<T>>> {
        self.0.values.lock().get(&key).and_then(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose keys are the same, if they are equally long.
    #[derive(Debug, Clone, PartialEq)]
    struct Text(String);

    impl Alike for Text {
        fn key(&self, _: &RandomState) -> u64 {
            self.0.len() as u64
        }

        fn is_alike(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn text(text: &str) -> Text {
        Text(text.to_owned())
    }

    #[test]
    fn equal_ones_are_one_and_gone_with_the_last_who_holds_them() {
        let pool = Pool::default();
        let one = pool.share(text("a"));
        assert!(Arc::ptr_eq(&one, &pool.share(text("a"))));
        // Under the same key, and not mixed up.
        let other = pool.share(text("b"));
        assert_eq!((&**one, &**other), (&text("a"), &text("b")));
        drop(other);
        assert_eq!(pool.0.values.lock().len(), 1);
        drop(one);
        assert_eq!(pool.0.values.lock().len(), 0);
    }

    #[test]
    fn who_changes_one_has_his_own() {
        let pool = Pool::default();
        let mut one = pool.share(text("a"));
        let two = Arc::clone(&one);
        Shared::edit(&mut one).0.push('b');
        assert_eq!((&**one, &**two), (&text("ab"), &text("a")));
        assert!(!one.is_as_shared() && two.is_as_shared());
        // Alone with it, but others may look for it.
        let mut last = pool.share(text("c"));
        Shared::edit(&mut last).0.push('d');
        assert_eq!(&**pool.share(text("c")), &text("c"));
        let before = Arc::as_ptr(&last);
        Shared::edit(&mut last).0.push('e');
        assert_eq!((Arc::as_ptr(&last), &**last), (before, &text("cde")));
    }
}
