//! What is watched, on its way into the [`World`]: what it may matter to is noted for whoever plans.
//!
//! What is written goes in at once, and not when the watch tells of it: what was just done must not be done again. News
//! that is older than the write is passed over.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dependency_graph::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::mesh::sidecar::is_ours;
use crate::mesh::{Kind, Name, Touched, World};
use crate::sidecars::metrics::Metrics;

/// What changed since it was last taken: names only, so that it is no larger than the mesh.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Any namespace may want something else.
    pub everything: bool,
    /// Namespaces that may want something else.
    pub namespaces: BTreeSet<String>,
    /// Sidecars and EnvoyFilters of ours that changed.
    pub ours: BTreeSet<Name>,
}

impl News {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn touched(&mut self, touched: Touched) {
        match touched {
            Touched::Nothing => {}
            Touched::Namespace(name) => {
                self.namespaces.insert(name);
            }
            Touched::Everything => self.everything = true,
        }
    }
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Watched {
    world: Arc<RwLock<World>>,
    inner: Arc<Inner>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Inner {
    news: Mutex<News>,
    arrived: Notify,
    /// Writes of ours that the watch has not told of yet.
    own: Mutex<BTreeMap<(Kind, Name), Own>>,
    /// Kinds of which everything was told.
    listed: watch::Sender<BTreeSet<Kind>>,
    all_listed: watch::Sender<bool>,
    changes: watch::Sender<()>,
    /// Kinds that the place does not have.
    absent: Mutex<BTreeSet<Kind>>,
    /// Why kinds could not be listed or watched.
    failed: Mutex<BTreeMap<Kind, String>>,
}

/// A write of ours.
#[derive(Debug)]
enum Own {
    /// It is so from this revision on.
    Written(u64),
    /// The object with this uid is gone.
    Deleted(String),
}

impl Watched {
    /// Fills this world.
    #[must_use]
    pub fn new(world: Arc<RwLock<World>>, metrics: Metrics) -> Self {
        let inner = Inner {
            news: Mutex::default(),
            arrived: Notify::new(),
            own: Mutex::default(),
            listed: watch::channel(BTreeSet::new()).0,
            all_listed: watch::channel(false).0,
            changes: watch::channel(()).0,
            absent: Mutex::default(),
            failed: Mutex::default(),
        };
        Self {
            world,
            inner: Arc::new(inner),
            metrics,
        }
    }

    /// Tells of every change, once it can be seen.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.subscribe()
    }

    /// Becomes true once everything there is of every kind was told.
    #[must_use]
    pub fn all_listed(&self) -> watch::Receiver<bool> {
        self.inner.all_listed.subscribe()
    }

    /// What is known.
    #[must_use]
    pub fn world(&self) -> &Arc<RwLock<World>> {
        &self.world
    }

    /// The watch tells of an object as it is.
    pub fn apply(&self, kind: Kind, object: &DynamicObject) {
        if self.is_older(kind, object) {
            return;
        }
        self.take_in(kind, object, true);
    }

    /// The watch tells that an object is gone.
    pub fn delete(&self, kind: Kind, object: &DynamicObject) {
        let name = Name::of(&object.metadata);
        {
            let mut own = self.inner.own.lock();
            match own.get(&(kind, name.clone())) {
                // It was made anew since.
                Some(Own::Written(at)) if revision(&object.metadata) < *at => return,
                _ => own.remove(&(kind, name.clone())),
            };
        }
        let touched = self.world.write().delete(kind, &name);
        self.warn_of_mesh_config(kind);
        self.note(kind, &name, touched, is_ours(&object.metadata));
    }

    /// The watch has told of everything there is of a kind.
    pub fn listed(&self, kind: Kind, names: &BTreeSet<Name>) {
        self.inner.own.lock().retain(|(of, name), own| {
            *of != kind || names.contains(name) || matches!(own, Own::Written(_))
        });
        let touched = self.world.write().retain(kind, names);
        self.warn_of_mesh_config(kind);
        self.note(kind, &Name::default(), touched, false);
        if self.inner.absent.lock().remove(&kind) {
            info!(%kind, "is there now");
        }
        self.is_known(kind);
    }

    /// The place does not have a kind.
    pub fn absent(&self, kind: Kind) {
        let touched = self.world.write().retain(kind, &BTreeSet::new());
        self.note(kind, &Name::default(), touched, false);
        if self.inner.absent.lock().insert(kind) {
            info!(%kind, "no such kind of resource is installed; looking again from time to time");
        }
        self.is_known(kind);
    }

    /// An object was written: this is how it is. Whoever wrote it knows, so it is no news.
    pub fn wrote(&self, kind: Kind, object: &DynamicObject) {
        let key = (kind, Name::of(&object.metadata));
        let written = Own::Written(revision(&object.metadata));
        // What the watch tells meanwhile must find the write noted.
        self.inner.own.lock().insert(key, written);
        self.take_in(kind, object, false);
    }

    /// An object was deleted. Whoever did it knows.
    pub fn deleted(&self, kind: Kind, name: &Name, uid: &str) {
        let deleted = Own::Deleted(uid.to_owned());
        self.inner.own.lock().insert((kind, name.clone()), deleted);
        self.world.write().delete(kind, name);
    }

    /// Returns once everything there is of every kind was told.
    pub async fn synced(&self) {
        let mut listed = self.inner.listed.subscribe();
        // The sender lives in self: waiting cannot fail.
        let _ = listed
            .wait_for(|listed| Kind::ALL.iter().all(|kind| listed.contains(kind)))
            .await;
    }

    /// A kind could not be listed or watched; it is tried again.
    pub fn failed(&self, kind: Kind, why: &str) {
        self.metrics.unwatched(kind);
        self.inner.failed.lock().insert(kind, why.to_owned());
        let waits = self.unlisted().contains(&kind);
        let hint = if waits {
            "may the controller list and watch it? mode sidecar waits for it"
        } else {
            "may the controller list and watch it?"
        };
        warn!(%kind, "cannot be watched: {why}; trying again (hint: {hint})");
    }

    /// Kinds that are waited for, and those whose watch failed since they were last listed, with why.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<Kind, String> {
        let mut all = self.inner.failed.lock().clone();
        for kind in self.unlisted() {
            let listing = || "is being listed".to_owned();
            all.entry(kind).or_insert_with(listing);
        }
        all
    }

    /// Kinds of which not everything was told yet.
    #[must_use]
    pub fn unlisted(&self) -> Vec<Kind> {
        let listed = self.inner.listed.borrow();
        let kinds = Kind::ALL.into_iter();
        kinds.filter(|kind| !listed.contains(kind)).collect()
    }

    /// What changed since the last time.
    #[must_use]
    pub fn news(&self) -> News {
        std::mem::take(&mut *self.inner.news.lock())
    }

    /// Returns when there may be news.
    pub async fn changed(&self) {
        self.inner.arrived.notified().await;
    }

    /// Whether news of an object is older than our own write of it.
    fn is_older(&self, kind: Kind, object: &DynamicObject) -> bool {
        let key = (kind, Name::of(&object.metadata));
        let mut own = self.inner.own.lock();
        let older = match own.get(&key) {
            Some(Own::Written(at)) => revision(&object.metadata) < *at,
            Some(Own::Deleted(uid)) => object.metadata.uid.as_ref() == Some(uid),
            None => return false,
        };
        if !older {
            own.remove(&key);
        }
        older
    }

    fn take_in(&self, kind: Kind, object: &DynamicObject, is_news: bool) {
        let name = Name::of(&object.metadata);
        let applied = {
            let mut world = self.world.write();
            let ours = is_ours(&object.metadata) && was_ours(&world, kind, &name);
            let before = since(&world, kind, &name);
            let touched = world.apply(kind, object);
            let is_new = since(&world, kind, &name) != before;
            touched.map(|touched| (touched, ours && !is_new))
        };
        match applied {
            Ok((_, true)) if !is_news => {}
            Ok((touched, ours)) => self.note(kind, &name, touched, ours),
            Err(unreadable) => {
                self.metrics.unreadable(kind);
                warn!("{unreadable}");
                // What it said before does not hold any more.
                self.inner.news.lock().everything = true;
                self.inner.arrived.notify_one();
            }
        }
    }

    /// A change of what is ours and stays ours changes nothing that is wanted, only what is to be done.
    fn note(&self, kind: Kind, name: &Name, touched: Touched, ours: bool) {
        self.inner.changes.send_replace(());
        if touched == Touched::Nothing {
            return;
        }
        {
            let mut news = self.inner.news.lock();
            if ours && matches!(kind, Kind::Sidecar | Kind::EnvoyFilter) {
                news.ours.insert(name.clone());
            } else {
                news.touched(touched);
            }
        }
        self.inner.arrived.notify_one();
    }

    /// Without it Sidecars may lack what every proxy calls, and callers are taken for strangers.
    fn warn_of_mesh_config(&self, kind: Kind) {
        if kind != Kind::MeshConfig {
            return;
        }
        if let Some(fault) = self.world.read().mesh_config_fault() {
            warn!(
                "mesh config: {fault} (hint: --mesh-config; with revisions it is istio-REVISION)"
            );
        }
    }

    fn is_known(&self, kind: Kind) {
        self.inner.failed.lock().remove(&kind);
        self.inner
            .listed
            .send_if_modified(|listed| listed.insert(kind));
        let all = self.unlisted().is_empty();
        self.inner
            .all_listed
            .send_if_modified(|was| !std::mem::replace(was, all) && all);
    }
}

/// When an EnvoyFilter of ours was made: by that it is judged whether a workload may be given its first Sidecar.
fn since(world: &World, kind: Kind, name: &Name) -> Option<Timestamp> {
    let filter = Some(name).filter(|_| kind == Kind::EnvoyFilter)?;
    Some(world.filter(filter)?.ours.as_ref()?.created)
}

/// Whether what is known of that name, if there is something, is ours.
fn was_ours(world: &World, kind: Kind, name: &Name) -> bool {
    match kind {
        Kind::Sidecar => world.sidecar(name).is_none_or(|one| one.ours.is_some()),
        Kind::EnvoyFilter => world.filter(name).is_none_or(|one| one.ours.is_some()),
        _ => false,
    }
}

/// Resource versions grow; one that is no number is taken as the latest there can be, so that it is never passed over.
fn revision(meta: &ObjectMeta) -> u64 {
    let version = meta.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}
