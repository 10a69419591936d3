//! Tables of resources, shared by the streams that were given the same.
//!
//! istiod gives most proxies the same clusters, ten thousand in a large mesh: a thousand streams share one table of them. A
//! stream makes its own first, and only then looks for an equal one: it never finds in a table what istiod did not give on
//! that very stream.

use crate::store::Stored;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Weak};

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

/// Resources that do not change any more.
#[derive(Debug)]
pub struct Table {
    entries: Entries,
    key: u64,
    home: Weak<Known>,
}

impl Deref for Table {
    type Target = Entries;

    fn deref(&self) -> &Entries {
        &self.entries
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.forget(self.key);
        }
    }
}

/// All tables there are.
#[derive(Debug, Clone, Default)]
pub struct Tables(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    hasher: RandomState,
    tables: Mutex<HashMap<u64, Weak<Table>>>,
}

impl Known {
    fn forget(&self, key: u64) {
        let mut tables = self.tables.lock();
        if tables
            .get(&key)
            .is_some_and(|table| table.strong_count() == 0)
        {
            tables.remove(&key);
        }
    }
}

impl Tables {
    /// The shared table of these resources, made of them if there is none yet.
    pub fn share(&self, entries: Entries) -> Arc<Table> {
        // Equal resources are one in the store, so their addresses tell them. In any order.
        let of_one = |entry: &Entry| self.0.hasher.hash_one(Arc::as_ptr(&entry.0).addr());
        let keys = entries.iter().map(of_one);
        let key = keys.fold(0, u64::wrapping_add);
        if let Some(there) = self.get(key).filter(|there| is_same(there, &entries)) {
            return there;
        }
        let table = Arc::new(Table {
            entries,
            key,
            home: Arc::downgrade(&self.0),
        });
        let there = {
            let mut tables = self.0.tables.lock();
            let there = tables.get(&key).and_then(Weak::upgrade);
            if there.is_none() {
                tables.insert(key, Arc::downgrade(&table));
            }
            there
        };
        match there {
            // Another stream was faster.
            Some(there) if is_same(&there, &table) => there,
            // One of others and the same key keeps the place: this one is not shared.
            _ => table,
        }
    }

    fn get(&self, key: u64) -> Option<Arc<Table>> {
        self.0.tables.lock().get(&key).and_then(Weak::upgrade)
    }
}

fn is_same(table: &Entries, other: &Entries) -> bool {
    let holds = |entry: &Entry| {
        let there = table.get(entry);
        there.is_some_and(|there| Arc::ptr_eq(&there.0, &entry.0))
    };
    table.len() == other.len() && other.iter().all(holds)
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
    fn equal_tables_are_one_and_gone_with_the_last_who_holds_them() {
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
        assert_eq!(tables.0.tables.lock().len(), 1);
        drop(one);
        assert_eq!(tables.0.tables.lock().len(), 0);
        assert_eq!(store.size().0, 0);
    }

    #[test]
    fn tables_of_one_key_are_not_mixed_up() {
        let (store, tables) = (Store::default(), Tables::default());
        let first = tables.share(entries(&store, &[("a", "1")]));
        let other = entries(&store, &[("b", "2")]);
        let key = tables.share(other.clone()).key;
        tables.0.tables.lock().insert(key, Arc::downgrade(&first));
        let table = tables.share(other);
        assert!(table.contains("b") && !table.contains("a"));
    }
}
