//! What istiod gave of one type on one stream: a table that is shared with streams that were given the same, and what is
//! otherwise since.

use crate::store::{Store, Stored};
use crate::table::{Entries, Entry, Table};
use std::collections::HashSet;
use std::sync::Arc;

/// So much may be otherwise than in a shared table before there is a new one, and this part of it.
const MOST_BESIDE: usize = 64;
const PART_BESIDE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    shared: Option<Arc<Table>>,
    /// What is not in the table, or is another there.
    came: Entries,
    /// What is in the table and not here.
    gone: HashSet<Box<str>>,
}

impl Snapshot {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        if let Some(entry) = self.came.get(name) {
            return Some(&entry.0);
        }
        let shared = self.shared.as_ref()?.get(name)?;
        (!self.is_gone(name)).then_some(&shared.0)
    }

    /// Makes room for so many resources more.
    pub(super) fn reserve(&mut self, count: usize) {
        self.came.reserve(count);
    }

    /// Puts a resource in; whether there was none of its name.
    pub(super) fn put(&mut self, stored: Arc<Stored>) -> bool {
        let name = &*stored.name;
        let there = self.shared.as_ref().and_then(|table| table.get(name));
        let was_gone = !self.gone.is_empty() && self.gone.remove(name);
        let was_shared = there.is_some() && !was_gone;
        if there.is_some_and(|there| Arc::ptr_eq(&there.0, &stored)) {
            let came = !self.came.is_empty() && self.came.remove(name);
            return !was_shared && !came;
        }
        self.came.replace(Entry(stored)).is_none() && !was_shared
    }

    /// Takes a resource out; whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let came = self.came.remove(name);
        let shared = self.shared.as_ref().is_some_and(|t| t.contains(name));
        let shared = shared && self.gone.insert(name.into());
        came || shared
    }

    /// Everything there is.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        let shared = self.shared.iter().flat_map(|table| table.iter());
        let shared = shared.filter(|entry| !self.is_otherwise(&entry.0.name));
        shared.chain(&self.came).map(|Entry(stored)| stored)
    }

    /// Shares what is there, if much of it is not yet. To be called when a push was taken in.
    pub(super) fn share(&mut self, store: &Store) {
        let shared = self.shared.as_ref().map_or(0, |table| table.len());
        if self.came.len() + self.gone.len() <= MOST_BESIDE.max(shared / PART_BESIDE) {
            return;
        }
        let entries = match self.shared {
            // The whole of it came just now.
            None => std::mem::take(&mut self.came),
            Some(_) => {
                let mut all =
                    Entries::with_capacity_and_hasher(shared + self.came.len(), Default::default());
                all.extend(self.all().cloned().map(Entry));
                all
            }
        };
        self.shared = Some(store.share(entries));
        (self.came, self.gone) = Default::default();
    }

    fn is_gone(&self, name: &str) -> bool {
        !self.gone.is_empty() && self.gone.contains(name)
    }

    fn is_otherwise(&self, name: &str) -> bool {
        !self.came.is_empty() && self.came.contains(name) || self.is_gone(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        /// It is a map, whenever what is in it is shared.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0..200_u8, 0..6_u8), 0..900)) {
            let store = Store::default();
            let mut snapshot = Snapshot::default();
            let mut map = BTreeMap::new();
            for (name, what) in steps {
                let name = format!("n{name}");
                match what {
                    0 => proptest::prop_assert_eq!(snapshot.remove(&name), map.remove(&name).is_some()),
                    1 => snapshot.share(&store),
                    content => {
                        let stored = store.keep(&name, format!("{name}={content}").as_bytes());
                        let new = map.insert(name, Arc::clone(&stored)).is_none();
                        proptest::prop_assert_eq!(snapshot.put(stored), new);
                    }
                }
            }
            let all: BTreeMap<_, _> = snapshot.all().map(|s| (s.name.to_string(), Arc::clone(s))).collect();
            proptest::prop_assert_eq!(snapshot.all().count(), map.len());
            for (name, stored) in &map {
                proptest::prop_assert!(Arc::ptr_eq(stored, &all[name]));
                proptest::prop_assert!(Arc::ptr_eq(stored, snapshot.get(name).unwrap()));
            }
            for name in (0..200).map(|number| format!("n{number}")) {
                let there = snapshot.get(&name).is_some();
                proptest::prop_assert_eq!(there, map.contains_key(&name));
            }
        }
    }

    #[test]
    fn what_two_were_given_is_shared() {
        let store = Store::default();
        let given = || {
            let mut snapshot = Snapshot::default();
            for n in 0..200_u8 {
                snapshot.put(store.keep(&n.to_string(), &[n]));
            }
            snapshot.share(&store);
            snapshot
        };
        let (mut one, two) = (given(), given());
        let table = |of: &Snapshot| Arc::as_ptr(of.shared.as_ref().unwrap());
        assert_eq!(table(&one), table(&two));
        assert_eq!((one.came.capacity(), one.gone.capacity()), (0, 0));
        // What comes again as it is changes nothing.
        assert!(!one.put(store.keep("7", &[7])));
        assert!(one.came.is_empty());
        // A change is kept beside it, and as it was again it is none.
        assert!(one.remove("7") && !one.remove("7"));
        assert!(one.get("7").is_none() && two.get("7").is_some());
        assert!(one.put(store.keep("7", &[7])));
        assert!(one.came.is_empty() && one.gone.is_empty());
    }
}
