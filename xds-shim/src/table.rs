//! Tables of resources, by their names.

use crate::pool::{Alike, Pool, Shared};
use crate::store::Stored;
use foldhash::quality::RandomState;
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// A resource, found by its name.
#[derive(Debug, Clone)]
pub struct Entry(pub Arc<Stored>);

impl Borrow<str> for Entry {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Entry {}

/// Resources by their names.
pub type Entries = HashSet<Entry, RandomState>;

/// Resources that do not change any more, shared by the streams that were given the same.
pub type Table = Shared<Entries>;
/// All tables there are.
pub type Tables = Pool<Entries>;

impl Alike for Entries {
    /// In any order.
    fn key(&self, hasher: &RandomState) -> u64 {
        let keys = self
            .iter()
            .map(|e| hasher.hash_one(Arc::as_ptr(&e.0).addr()));
        keys.fold(0, u64::wrapping_add)
    }

    fn is_alike(&self, other: &Self) -> bool {
        let holds = |entry: &Entry| {
            let there = self.get(entry);
            there.is_some_and(|there| Arc::ptr_eq(&there.0, &entry.0))
        };
        self.len() == other.len() && other.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn entries(store: &Store, all: &[(&str, &str)]) -> Entries {
        let keep = |(name, content): &(&str, &str)| {
            // A resource has its name in it.
            Entry(store.keep(name, format!("{name}={content}").as_bytes()))
        };
        all.iter().map(keep).collect()
    }

    #[test]
    fn tables_of_the_same_resources_are_one() {
        let (store, tables) = (Store::default(), Tables::default());
        let share = |all: &[(&str, &str)]| tables.share(entries(&store, all));
        let one = share(&[("a", "1"), ("b", "2")]);
        assert!(Arc::ptr_eq(&one, &share(&[("b", "2"), ("a", "1")])));
        for other in [
            &[("a", "1")][..],
            &[("a", "1"), ("b", "3")],
            &[("a", "1"), ("c", "2")],
            &[],
        ] {
            assert!(!Arc::ptr_eq(&one, &share(other)), "{other:?}");
        }
        drop(one);
        assert_eq!(store.size().0, 0);
    }
}
