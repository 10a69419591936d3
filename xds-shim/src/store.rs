//! The store shared by all streams: one copy of each distinct resource, by content hash.
//!
//! istiod's output is the same byte for byte for most proxies (FACTS), so a thousand sidecars cost
//! little more than one. A resource lives as long as a stream holds it. A stream only ever finds
//! here what istiod gave on that same stream: the store hands out memory, never content by name.

use crate::pool::{Pool, Shared};
use crate::references::{self, Found};
use crate::stand_in::routes::Routes;
use crate::stand_in::tcp::{Connections, Kind};
use crate::table::{Entries, Table, Tables};
use bytes::Bytes;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock, Weak};

/// The hash of a resource's content, which is also its version towards the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 16]);

impl Version {
    /// The version of a content.
    pub fn of(content: &[u8]) -> Self {
        Self::from_hash(&blake3::hash(content))
    }

    /// The version of this content as it depends on another.
    pub fn upon(self, other: Self) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&other.0);
        Self::from_hash(&hasher.finalize())
    }

    /// Reads what [`fmt::Display`] writes; `None` for a version that is not ours.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        (digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u128::from_str_radix(digits, 16).ok())
            .flatten()
            .map(|n| Self(n.to_be_bytes()))
    }

    fn from_hash(hash: &blake3::Hash) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_bytes()[..16]);
        Self(half)
    }
}

/// Marks a version as a shim's, so that a proxy that comes back can be told from one that had
/// istiod's own config: istiod leaves versions empty.
const PREFIX: &str = "lm-";

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource as istiod sent it (or as the shim changed it), shared between streams.
#[derive(Debug)]
pub struct Stored {
    /// Its name.
    pub name: Box<str>,
    /// The encoded `Resource`.
    pub raw: Bytes,
    version: OnceLock<Version>,
    /// Boxed: ten thousand clusters have none.
    routes: OnceLock<Option<Box<Routes>>>,
    beside_routes: OnceLock<Option<Box<Found>>>,
    listener: OnceLock<Box<Listener>>,
    home: Weak<Shelves>,
    key: u64,
}

impl Stored {
    /// The version of `raw`. Most of a mesh is held and needs none.
    pub fn version(&self) -> Version {
        *self.version.get_or_init(|| Version::of(&self.raw))
    }

    /// The route configuration in it, taken apart once for all streams; `None` if nothing in it can be
    /// held, or it is not understood.
    pub fn routes(&self) -> Option<&Routes> {
        let parse = || {
            let parsed = Routes::parse(&self.raw).unwrap_or_else(|error| {
                tracing::warn!(routes = &*self.name, %error, "route configuration not understood, left whole");
                None
            });
            parsed.map(Box::new)
        };
        self.routes.get_or_init(parse).as_deref()
    }

    /// What the route configuration in it refers to beside the clusters that its routes pick, looked for once
    /// for all streams; `None` if it is not understood.
    pub fn beside_routes(&self) -> Option<&Found> {
        let look = || {
            let payload = crate::cluster::payload(&self.raw).ok()?;
            references::beside_routes(payload).ok().map(Box::new)
        };
        self.beside_routes.get_or_init(look).as_deref()
    }

    /// What there is to know of the listener in it, looked for once for all streams.
    pub fn listener(&self, look: impl FnOnce() -> Listener) -> &Listener {
        self.listener.get_or_init(|| Box::new(look()))
    }

    /// The same, if it was looked for.
    pub fn known_listener(&self) -> Option<&Listener> {
        self.listener.get().map(|listener| &**listener)
    }
}

/// What there is to know of a listener beside its bytes.
#[derive(Debug)]
pub struct Listener {
    /// What it is for held connections.
    pub kind: Kind,
    /// Clusters that its TCP proxies pick.
    pub tcp_clusters: Box<[Box<str>]>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.forget(self);
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Store {
    shelves: Arc<Shelves>,
    tables: Tables,
    connections: Pool<Connections>,
}

/// Sixty-four locks, so that streams rarely meet.
const SHELVES: usize = 64;

type Shelf = HashMap<u64, Weak<Stored>, RandomState>;

/// Found by a hash that is fast and not safe, and then by the content itself: what is like nothing else is not
/// hashed safely again with each push.
#[derive(Debug)]
struct Shelves {
    hasher: RandomState,
    shelves: [Mutex<Shelf>; SHELVES],
}

impl Default for Shelves {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            shelves: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Shelves {
    fn shelf(&self, key: u64) -> &Mutex<Shelf> {
        &self.shelves[usize::from(key.to_be_bytes()[0]) % SHELVES]
    }

    /// What is there under a key, whatever its content. Not to be dropped while a shelf is locked: dropping the
    /// last handle locks it.
    fn get(&self, key: u64) -> Option<Arc<Stored>> {
        self.shelf(key).lock().get(&key).and_then(Weak::upgrade)
    }

    fn forget(&self, stored: &Stored) {
        let mut shelf = self.shelf(stored.key).lock();
        // Another stream may have put a live one in its place between the last drop and this lock.
        if shelf
            .get(&stored.key)
            .is_some_and(|w| w.strong_count() == 0)
        {
            shelf.remove(&stored.key);
        }
    }
}

impl Store {
    /// The shared copy of this resource, made if there is none yet.
    pub fn keep(&self, name: &str, raw: &[u8]) -> Arc<Stored> {
        let key = self.shelves.hasher.hash_one(raw);
        if let Some(stored) = self.shelves.get(key).filter(|stored| stored.raw == raw) {
            return stored;
        }
        let stored = Arc::new(Stored {
            name: name.into(),
            // A copy: the message it came in must not be kept alive by one of its resources.
            raw: Bytes::copy_from_slice(raw),
            version: OnceLock::new(),
            routes: OnceLock::new(),
            beside_routes: OnceLock::new(),
            listener: OnceLock::new(),
            home: Arc::downgrade(&self.shelves),
            key,
        });
        let there = {
            let mut shelf = self.shelves.shelf(key).lock();
            let there = shelf.get(&key).and_then(Weak::upgrade);
            if there.is_none() {
                shelf.insert(key, Arc::downgrade(&stored));
            }
            there
        };
        match there {
            // Another stream was faster.
            Some(there) if there.raw == raw => there,
            // One of another content and the same hash keeps the place: this one is not shared.
            _ => stored,
        }
    }

    /// The shared table of these resources of this store, made of them if there is none yet.
    pub fn share(&self, entries: Entries) -> Arc<Table> {
        self.tables.share(entries)
    }

    /// The same of listeners, as far as held ones go.
    pub fn share_connections(&self, connections: Connections) -> Arc<Shared<Connections>> {
        self.connections.share(connections)
    }

    /// How many distinct resources are held, and their size in bytes.
    pub fn size(&self) -> (usize, usize) {
        self.shelves
            .shelves
            .iter()
            .fold((0, 0), |(count, bytes), shelf| {
                // Collected first: dropping the last handle takes the same lock.
                let held: Vec<_> = shelf.lock().values().filter_map(Weak::upgrade).collect();
                (
                    count + held.len(),
                    bytes + held.iter().map(|s| s.raw.len()).sum::<usize>(),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_for_all_and_none_when_nobody_holds_it() {
        let store = Store::default();
        let one = store.keep("a", b"content");
        let two = store.clone().keep("a", b"content");
        assert!(Arc::ptr_eq(&one, &two));
        let other = store.keep("a", b"other");
        assert_eq!(store.size(), (2, 12));
        drop((one, other));
        assert_eq!(store.size(), (1, 7));
        drop(two);
        assert_eq!(store.size(), (0, 0));
    }

    #[test]
    fn versions_are_told_from_others() {
        let version = Version::of(b"x");
        assert_eq!(Version::parse(&version.to_string()), Some(version));
        for other in [
            "",
            "lm-",
            "2026-01-01T00:00:00Z/3",
            &version.to_string()[..34],
        ] {
            assert_eq!(Version::parse(other), None, "{other:?}");
        }
        assert_ne!(
            version.upon(Version::of(b"y")),
            version.upon(Version::of(b"z"))
        );
    }
}
