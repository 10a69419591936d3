//! Puts the mode `sidecar` together.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_runtime::admin::{Admin, Reply};
use mesh_runtime::drain::Drain;
use mesh_runtime::tasks::Tasks;
use prometheus::Registry;
use tokio::sync::oneshot;

use super::Known;
use crate::calls;
use crate::cluster::file::File;
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::{Cluster, Watched};
use crate::config::sidecars::SidecarArgs;
use crate::history::WarmStart;
use crate::lease::{Candidate, Leading};
use crate::sidecars::metrics::Metrics;
use crate::sidecars::{Parts, Sidecars};
use crate::state::State;
use crate::store::Store;
use crate::store::file::POLL_PERIOD;
use crate::watch::follow_service_cidrs;

/// Where the mesh's objects are.
pub(super) enum Place {
    /// In a cluster: other replicas may write them as well.
    Kubernetes(kube::Client),
    /// In the folder of the graph, which one process has.
    Folder(PathBuf),
}

/// The mode `sidecar`, not running yet.
#[derive(Debug)]
pub(super) struct ModeSidecar {
    cluster: Arc<dyn Cluster>,
    watched: Watched,
    /// Where there are others that may lead.
    candidate: Option<Candidate>,
    leading: Leading,
    sidecars: Sidecars,
    state: State,
    service_cidrs: Vec<IpNet>,
}

impl ModeSidecar {
    pub(super) fn new(
        place: Place,
        args: &SidecarArgs,
        (store, state, known): (&Arc<dyn Store>, &State, &Known),
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry)?;
        let watched = Watched::new(known.world.clone(), metrics.clone());
        let config = args.mesh_config.clone();
        let (cluster, candidate): (Arc<dyn Cluster>, _) = match place {
            Place::Kubernetes(client) => {
                // What Kubernetes calls the pod.
                let host = std::env::var("HOSTNAME");
                let host = host.unwrap_or_else(|_| "lazyload-controller".to_owned());
                let candidate = Candidate::new(client.clone(), &args.namespace, &host);
                (Arc::new(Kubernetes::new(client, config)), Some(candidate))
            }
            Place::Folder(path) => (Arc::new(File::new(path, config, POLL_PERIOD)), None),
        };
        let leading = candidate.as_ref();
        let leading = leading.map_or_else(Leading::alone, Candidate::leading);
        let parts = Parts {
            cluster: cluster.clone(),
            watched: watched.clone(),
            state: state.clone(),
            store: store.clone(),
            given: known.given.clone(),
            leading: leading.clone(),
            metrics,
        };
        let choices = args.choices();
        Ok(Self {
            cluster,
            watched,
            candidate,
            leading,
            service_cidrs: choices.settings.service_cidrs.clone(),
            sidecars: Sidecars::new(parts, choices, args.sidecar_writes),
            state: state.clone(),
        })
    }

    /// No namespace is begun before its past is learned.
    pub(super) fn after(self, warm: WarmStart) -> Self {
        Self {
            sidecars: self.sidecars.after(warm),
            ..self
        }
    }

    /// Whether this replica decides for all.
    pub(super) fn leading(&self) -> Leading {
        self.leading.clone()
    }

    /// What is watched, for those who judge calls.
    pub(super) fn mesh(&self) -> calls::Mesh {
        calls::Mesh {
            world: self.watched.world().clone(),
            changes: self.watched.changes(),
            synced: self.watched.all_listed(),
        }
    }

    pub(super) fn with_page(&self, admin: Admin) -> Admin {
        let sidecars = self.sidecars.clone();
        admin.route(
            "/debug/sidecars",
            "mode sidecar: what each namespace waits for",
            move || Reply::json(&sidecars.page()),
        )
    }

    /// The Lease is given back when the last write is done, and not before.
    pub(super) fn spawn(self, tasks: &mut Tasks, drain: &Drain) {
        let (over, is_over) = oneshot::channel();
        let cidrs = follow_service_cidrs(self.mesh(), self.service_cidrs, self.state);
        tasks.spawn_background("service addresses", async move {
            cidrs.await;
            Ok::<_, Infallible>(())
        });
        let (sidecars, drain) = (self.sidecars, drain.clone());
        tasks.spawn_background("watches of the mesh", self.cluster.follow(self.watched));
        tasks.spawn("sidecars", async move {
            let ended = sidecars.run(drain).await;
            drop(over);
            ended
        });
        let is_over = async {
            let _: Result<Infallible, _> = is_over.await;
        };
        if let Some(candidate) = self.candidate {
            tasks.spawn("lease", candidate.run(is_over));
        }
    }
}
