//! A folder of YAML documents, for running without Kubernetes: what would be in the cluster is in its subfolder `mesh`,
//! and what Lazymesh writes goes there, a file for each object. Namespaces may be beside the graph as well, where
//! [`crate::store::file`] needs them.
//!
//! Who looks from outside sees whole files only: each is written beside its place and renamed over it. Nothing is synced
//! to the disk, since all of it can be made again from the graph.

mod folder;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;
use tracing::warn;

use super::{Cluster, Fault, Lost, Watched};
use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name};
use crate::store::file::pause;

use folder::{Folder, Told};

/// See the module.
#[derive(Clone, Debug)]
pub struct File {
    folder: Arc<Mutex<Folder>>,
    every: Duration,
}

impl File {
    /// The folder at `path`, looked at as often as `every`. `mesh_config`: the ConfigMap of Istio's mesh config.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, mesh_config: Name, every: Duration) -> Self {
        Self {
            folder: Arc::new(Mutex::new(Folder::new(path.into(), mesh_config))),
            every,
        }
    }

    /// Does something with the folder where it may take its time.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Folder) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut folder.lock())).await;
        done.unwrap_or_else(|error| Err(Fault::Unavailable(error.to_string())))
    }
}

impl Cluster for File {
    fn follow(self: Arc<Self>, watched: Watched) -> BoxFuture<'static, Result<(), Lost>> {
        async move {
            let mut listed = false;
            loop {
                let (folder, tell, began) = (self.folder.clone(), watched.clone(), Instant::now());
                let look = move || {
                    // Told under the lock: a write of ours comes before or after all of it.
                    let mut folder = folder.lock();
                    for told in folder.look()? {
                        match told {
                            Told::Is(kind, object) => tell.apply(kind, &object),
                            Told::Gone(kind, object) => tell.delete(kind, &object),
                        }
                    }
                    Ok::<_, std::io::Error>(folder.names())
                };
                match tokio::task::spawn_blocking(look).await {
                    Ok(Ok(names)) if !listed => {
                        for kind in Kind::ALL {
                            let of_kind = names.iter().filter(|(of, _)| *of == kind);
                            let names = of_kind.map(|(_, name)| name.clone()).collect();
                            watched.listed(kind, &names);
                        }
                        listed = true;
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => warn!(%error, "looking at the folder; trying again"),
                    Err(error) => return Err(Lost(error.to_string())),
                }
                tokio::time::sleep(pause(self.every, began.elapsed())).await;
            }
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        object: &'a Value,
        made: Option<&'a Made>,
    ) -> BoxFuture<'a, Result<DynamicObject, Fault>> {
        let (name, object) = (name.clone(), object.clone());
        let uid = made.map(|made| made.uid.clone());
        let now = SystemTime::now();
        self.with(move |folder| folder.apply(kind, &name, object, uid.as_deref(), now))
            .boxed()
    }

    fn delete<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        let (name, uid) = (name.clone(), uid.to_owned());
        self.with(move |folder| folder.delete(kind, &name, &uid))
            .boxed()
    }
}
