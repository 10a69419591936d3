//! Where pods of each way are started: a namespace of callers, and what stands between them and istiod.

use anyhow::{Context, Result, ensure};
use mesh_tests::bench_report::{HAND_WRITTEN, ON_DEMAND, PLAIN, SETTLED, SIDECAR};
use mesh_tests::testbed::{
    Case, Controllers, GlobalProxies, GlobalProxy, Namespace, Pod, Replica, Shims, Workload, until,
};
use std::time::{Duration, Instant};

use super::start::{Passed, workload};
use crate::scale::services::Services;
use crate::scale::weight::{THREE, write_sidecar};
use crate::sidecar::{STRANGER, label, objects, status_of, wait_lazy, wait_no_trace};
use crate::steps::streams;

/// The whole mesh in one sidecar may take minutes to come.
const READY: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(120);
/// Longer than what a workload learns at its beginning takes.
const SETTLE_AFTER: &str = "--settle-after=4s";

/// The namespaces of a mesh's callers, made before its services are: these are seen in them only.
pub(super) struct Namespaces {
    /// Without a controller.
    base: Namespace,
    /// With one: in mode `sidecar`, and what it needs; in mode `on-demand`, and what it needs.
    with_controller: [(Namespace, Namespace); 2],
}

impl Namespaces {
    pub(super) async fn make(case: &Case) -> Result<Self> {
        let strict = async || {
            let ns = case.namespace(&[]).await?;
            ns.strict_mtls().await?;
            anyhow::Ok(ns)
        };
        let pair = async || anyhow::Ok((strict().await?, case.namespace(&[]).await?));
        Ok(Self {
            base: strict().await?,
            with_controller: [pair().await?, pair().await?],
        })
    }

    /// Those in which the mesh's services are seen.
    pub(super) fn callers(&self) -> Vec<&Namespace> {
        let pairs = self.with_controller.iter();
        let pairs = pairs.flat_map(|(ns, system)| [ns, system]);
        [&self.base].into_iter().chain(pairs).collect()
    }
}

/// The ways that are measured one after the other, with the same parts around them.
pub(super) enum Stage {
    /// Plain, hand-written and on demand: no controller.
    Base { ns: Namespace, lazy: Through },
    /// One way, with a controller and a global proxy.
    Controlled {
        way: &'static str,
        ns: Namespace,
        lazy: Option<Through>,
        controller: Replica,
        global_proxy: GlobalProxy,
        _parts: (Controllers, GlobalProxies),
    },
}

/// A shim.
pub(super) struct Through {
    pub(super) shims: Shims,
    pub(super) shim: Replica,
}

impl Through {
    pub(super) async fn start(shims: Shims, mode: &str) -> Result<Self> {
        let shim = shims.start(&[&format!("--default-mode={mode}")]).await?;
        Ok(Self { shims, shim })
    }
}

impl Stage {
    pub(super) async fn base(namespaces: &Namespaces, services: &Services) -> Result<Self> {
        let ns = namespaces.base.clone();
        write_sidecar(&ns, services, &workload(HAND_WRITTEN, 0)).await?;
        let lazy = Through::start(ns.shims().await?, "on-demand").await?;
        Ok(Self::Base { ns, lazy })
    }

    pub(super) async fn sidecar(namespaces: &Namespaces) -> Result<Self> {
        Self::controlled(SIDECAR, &namespaces.with_controller[0]).await
    }

    pub(super) async fn settled(namespaces: &Namespaces) -> Result<Self> {
        Self::controlled(SETTLED, &namespaces.with_controller[1]).await
    }

    async fn controlled(way: &'static str, (ns, system): &(Namespace, Namespace)) -> Result<Self> {
        let mode = if way == SIDECAR { SIDECAR } else { "on-demand" };
        label(ns, Some(mode), "prefer-redirect").await?;
        // By what is not known of it a pod shows that it is lazy.
        ns.service(STRANGER).port("http", 80, 8080).create().await?;
        let controllers = system.controllers().await?;
        let global_proxies = system.global_proxies(&controllers).await?;
        let controller = controllers
            .start_for(ns, &global_proxies, &[SETTLE_AFTER])
            .await?;
        let global_proxy = global_proxies.start(&[]).await?;
        let lazy = if way == SETTLED {
            let mut shims = system.shims().await?;
            shims.use_controllers(&controllers).await?;
            Some(Through::start(shims, "off").await?)
        } else {
            None
        };
        Ok(Self::Controlled {
            way,
            ns: ns.clone(),
            lazy,
            controller,
            global_proxy,
            _parts: (controllers, global_proxies),
        })
    }

    pub(super) fn ways(&self) -> Vec<&'static str> {
        match self {
            Self::Base { .. } => vec![PLAIN, HAND_WRITTEN, ON_DEMAND],
            Self::Controlled { way, .. } => vec![way],
        }
    }

    pub(super) fn ns(&self) -> &Namespace {
        match self {
            Self::Base { ns, .. } | Self::Controlled { ns, .. } => ns,
        }
    }

    /// The shim that pods of this way are behind.
    pub(super) fn lazy(&self, way: &str) -> Option<&Through> {
        match self {
            Self::Base { lazy, .. } => (way == ON_DEMAND).then_some(lazy),
            Self::Controlled { lazy, .. } => lazy.as_ref(),
        }
    }

    /// A sidecar of this way, behind the same shim as those that are measured. A shim serves a mesh: it is as good as never that
    /// a pod which starts is the only one, and has it take in all of the mesh for it.
    pub(super) async fn resident(&self) -> Result<Option<Pod>> {
        if !self.ways().contains(&ON_DEMAND) {
            return Ok(None);
        }
        let pod = self.workload(ON_DEMAND, "resident").start().await?;
        Ok(Some(pod))
    }

    /// A workload of this way that only calls.
    pub(super) fn workload(&self, way: &str, name: &str) -> Workload {
        let workload = self.ns().workload(name).no_app();
        let workload = workload.sidecar(|sidecar| sidecar.ready_limit = READY);
        match self.lazy(way) {
            Some(through) => workload.via(&through.shims),
            None => workload,
        }
    }

    /// Has a workload learn what it uses, and waits until a fresh pod of it has just that. Milliseconds from each first call
    /// to its service being in the workload's record; nothing where nothing is learned.
    pub(super) async fn learn(&self, name: &str, services: &Services) -> Result<Vec<f64>> {
        let Self::Controlled { way, .. } = self else {
            return Ok(Vec::new());
        };
        let pod = self.workload(way, name).start().await?;
        if *way == SIDECAR {
            wait_lazy(&pod).await?;
        }
        let mut times = Vec::new();
        for call in THREE {
            let host = services.egress_host(call);
            let host = host.split_once('/').map_or("", |(_, host)| host);
            let begin = Instant::now();
            pod.get(&services.http_url(call)).await?;
            until("it to be in the record", LIMIT, || async {
                let known = status_of(self.ns(), name).await?.to_string();
                ensure!(known.contains(host), "no {host} in {known}");
                Ok(())
            })
            .await?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            pod.get(&services.tcp_url(call)).await?;
        }
        until("its Sidecar", LIMIT, || async {
            let sidecars = objects(self.ns(), "Sidecar").await?;
            let text: String = sidecars.iter().map(|one| one.data.to_string()).collect();
            for call in THREE {
                let host = services.egress_host(call);
                ensure!(text.contains(&host), "no {host} in {text}");
            }
            if *way == SETTLED {
                let status = status_of(self.ns(), name).await?;
                ensure!(status["phase"] == "Settled", "{status}");
            }
            Ok(())
        })
        .await?;
        pod.delete().await?;
        Ok(times)
    }

    /// Ends what would take part in what is measured next.
    pub(super) async fn close(self) -> Result<()> {
        match self {
            Self::Base { lazy, .. } => lazy.shim.stop().await,
            Self::Controlled {
                way,
                ns,
                lazy,
                controller,
                global_proxy,
                ..
            } => {
                label(&ns, None, "prefer-redirect").await?;
                wait_no_trace(&ns).await.with_context(|| way.to_owned())?;
                controller.stop().await?;
                global_proxy.stop().await?;
                if let Some(through) = lazy {
                    through.shim.stop().await?;
                }
                Ok(())
            }
        }
    }
}

/// A pod of a way whose bytes are counted on their way, by a shim that passes them through where the way has none of its own.
pub(super) struct Counted<'a> {
    pub(super) pod: Pod,
    pub(super) shim: &'a Replica,
    /// Whether the shim is a part of the way.
    pub(super) own: bool,
    /// What the shim had passed before it started.
    pub(super) before: Passed,
}

impl<'a> Counted<'a> {
    pub(super) async fn start(
        stage: &'a Stage,
        way: &str,
        name: &str,
        counting: &'a Through,
    ) -> Result<Self> {
        let workload = stage.workload(way, name);
        let (workload, shim, own) = match stage.lazy(way) {
            Some(through) => (workload, &through.shim, true),
            None => (workload.via(&counting.shims), &counting.shim, false),
        };
        // What is counted is to be its own.
        until("its shim to be nobody's", LIMIT, || async {
            let streams = streams(shim).await?;
            ensure!(streams.is_empty(), "{streams:?}");
            Ok(())
        })
        .await?;
        let before = Passed::by(shim).await?;
        let pod = workload.start().await?;
        Ok(Self {
            pod,
            shim,
            own,
            before,
        })
    }
}
