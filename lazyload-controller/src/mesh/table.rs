//! Objects by namespace and name.
//!
//! A copy shares everything: who plans works on one, whatever the mesh's size, and does not keep those who ask or watch
//! from going on. What changes meanwhile copies the list of one namespace, and no object.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::object::Name;

type Within<T> = BTreeMap<Name, Arc<T>>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table<T>(BTreeMap<String, Arc<Within<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: PartialEq> Table<T> {
    /// Says whether that is a change.
    pub(super) fn set(&mut self, name: &Name, value: T) -> bool {
        let changed = self.get(name) != Some(&value);
        // Also where it is none: a revision does not count, and is wanted all the same.
        let of = self.0.entry(name.namespace.clone()).or_default();
        Arc::make_mut(of).insert(name.clone(), Arc::new(value));
        changed
    }

    pub(super) fn take(&mut self, name: &Name) -> Option<Arc<T>> {
        let of = self.0.get_mut(&name.namespace)?;
        if !of.contains_key(name) {
            return None;
        }
        let taken = Arc::make_mut(of).remove(name);
        if of.is_empty() {
            self.0.remove(&name.namespace);
        }
        taken
    }

    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        self.0.get(&name.namespace)?.get(name).map(|value| &**value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.0.values().flat_map(|of| each(of))
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = (&Name, &T)> + use<'_, T> {
        self.0.get(namespace).into_iter().flat_map(|of| each(of))
    }
}

fn each<T>(of: &Within<T>) -> impl Iterator<Item = (&Name, &T)> {
    of.iter().map(|(name, value)| (name, &**value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_does_not_change() {
        let name = |namespace, name| Name::new(namespace, name);
        let mut table = Table::default();
        for of in ["bank", "shop"] {
            assert!(table.set(&name(of, "a"), 1));
            assert!(table.set(&name(of, "b"), 2));
        }
        let copy = table.clone();
        assert!(!table.set(&name("shop", "a"), 1));
        assert!(table.set(&name("shop", "a"), 3));
        assert_eq!(table.take(&name("shop", "c")), None);
        assert_eq!(copy.get(&name("shop", "a")), Some(&1));
        assert_eq!(table.get(&name("shop", "a")), Some(&3));
        assert!(Arc::ptr_eq(&copy.0["bank"], &table.0["bank"]));
        let b = name("shop", "b");
        assert!(Arc::ptr_eq(&copy.0["shop"][&b], &table.0["shop"][&b]));
    }

    #[test]
    fn what_is_empty_is_forgotten() {
        let mut table = Table::default();
        let name = Name::new("shop", "a");
        assert!(table.set(&name, 1));
        assert_eq!(table.take(&name).as_deref(), Some(&1));
        assert_eq!(table, Table::default());
        assert_eq!(table.within("shop").count(), 0);
    }
}
