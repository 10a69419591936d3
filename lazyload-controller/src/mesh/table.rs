//! Objects by namespace and name.

use std::collections::BTreeMap;

use super::object::Name;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table<T>(BTreeMap<Name, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: PartialEq> Table<T> {
    /// Says whether that is a change.
    pub(super) fn set(&mut self, name: &Name, value: T) -> bool {
        let changed = self.0.get(name) != Some(&value);
        // Also where it is none: a revision does not count, and is wanted all the same.
        self.0.insert(name.clone(), value);
        changed
    }

    pub(super) fn take(&mut self, name: &Name) -> Option<T> {
        self.0.remove(name)
    }

    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.0.iter()
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = (&Name, &T)> {
        let namespace = namespace.to_owned();
        self.0
            .range(Name::new(&namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
    }
}
