//! What a change of the mesh costs for one sidecar: CPU of istiod, the shim and the sidecar, and bytes.

use anyhow::{Result, ensure};
use mesh_tests::bench_report::{Changes, Cost, Way};
use mesh_tests::testbed::{Mesh, Running, until};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

use super::Scope;
use super::stage::Counted;
use super::start::{Passed, ms};
use crate::scale::services::Services;

/// No change is like another one.
static NUMBER: AtomicU32 = AtomicU32::new(0);
const LIMIT: Duration = Duration::from_secs(120);
/// A mesh is quiet when its programs have used less than a part of this time, `QUIET`.
const LOOK: Duration = Duration::from_secs(1);
const QUIET: f64 = 0.05;
/// For which what programs use anyway is watched: Envoy counts its statistics every five seconds.
const IDLE: Duration = Duration::from_secs(10);

/// Services: one of the three that are called, and one that nobody calls.
const USED: u32 = 0;
const UNUSED: u32 = 7;

/// A change of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Of a service that is used.
    Endpoint,
    /// Of one that nobody uses.
    UnusedEndpoint,
    NewService,
    /// All of the config is made again.
    FullPush,
}

impl Change {
    pub(super) const ALL: [Self; 4] = [
        Self::Endpoint,
        Self::UnusedEndpoint,
        Self::NewService,
        Self::FullPush,
    ];

    /// Another one for another number.
    async fn make(self, mesh: &Mesh, services: &Services, number: u32) -> Result<()> {
        match self {
            Self::Endpoint => services.change_endpoints(USED, Some(number)).await,
            Self::UnusedEndpoint => services.change_endpoints(UNUSED, Some(number)).await,
            Self::NewService => services.add(number).await,
            Self::FullPush => {
                // istiod cannot know that it matters to nobody's config.
                let filter = format!(
                    "{{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {{name: bench}}, spec: {{
                       workloadSelector: {{labels: {{app: nobody-{number}}}}}, configPatches: [{{applyTo: CLUSTER,
                       match: {{context: GATEWAY}}, patch: {{operation: MERGE, value: {{connect_timeout: 5s}}}}}}]}}}}"
                );
                mesh.resources().apply("istio-system", &filter).await?;
                Ok(())
            }
        }
    }
}

/// What takes part: without a pod, istiod alone.
pub(super) struct Watched<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) pod: Option<&'a Counted<'a>>,
}

/// CPU that programs have used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) istiod: Duration,
    shim: Duration,
    sidecar: Duration,
}

impl Used {
    fn sum(self) -> Duration {
        self.istiod + self.shim + self.sidecar
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            istiod: self.istiod.saturating_sub(before.istiod),
            shim: self.shim.saturating_sub(before.shim),
            sidecar: self.sidecar.saturating_sub(before.sidecar),
        }
    }

    pub(super) fn part(self, part: f64) -> Self {
        Self {
            istiod: self.istiod.mul_f64(part),
            shim: self.shim.mul_f64(part),
            sidecar: self.sidecar.mul_f64(part),
        }
    }
}

impl Watched<'_> {
    pub(super) async fn used(&self) -> Result<Used> {
        let mut used = Used {
            istiod: self.mesh.istiod().await.cpu()?,
            ..Used::default()
        };
        if let Some(counted) = self.pod {
            let envoy: Running = counted.pod.envoy().await?.running()?;
            used.sidecar = envoy.cpu()? + counted.pod.agent().await?.cpu()?;
            used.shim = counted.shim.running().await?.cpu()?;
        }
        Ok(used)
    }

    /// Waits until all that a change caused is done.
    pub(super) async fn quiet(&self) -> Result<()> {
        until("the mesh to be quiet", LIMIT, || async {
            let before = self.used().await?.sum();
            sleep(LOOK).await;
            let used = (self.used().await?.sum() - before).as_secs_f64();
            ensure!(used < QUIET * LOOK.as_secs_f64(), "{used} s of CPU");
            Ok(())
        })
        .await
    }

    /// What it uses anyway, in a second.
    pub(super) async fn idle(&self) -> Result<Used> {
        self.quiet().await?;
        let (begin, before) = (Instant::now(), self.used().await?);
        sleep(IDLE).await;
        let used = self.used().await?.since(before);
        Ok(used.part(1.0 / begin.elapsed().as_secs_f64()))
    }

    /// How many changes istiod has seen.
    async fn seen(&self) -> Result<f64> {
        self.mesh.istiod_metric("pilot_inbound_updates", "").await
    }

    /// Makes a change, another one each time; comes back when istiod has seen it.
    pub(super) async fn change(&self, change: Change, services: &Services) -> Result<()> {
        let seen = self.seen().await?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        change.make(self.mesh, services, number).await?;
        until("istiod to see it", LIMIT, || async {
            ensure!(self.seen().await? > seen, "it has not");
            Ok(())
        })
        .await
    }

    async fn cost(&self, change: Change, services: &Services, idle: Used) -> Result<Cost> {
        let passed = match self.pod {
            Some(counted) => Some(Passed::by(counted.shim).await?),
            None => None,
        };
        let (begin, before) = (Instant::now(), self.used().await?);
        self.change(change, services).await?;
        self.quiet().await?;
        let used = self.used().await?.since(before);
        let used = used.since(idle.part(begin.elapsed().as_secs_f64()));
        let mut cost = Cost {
            istiod_cpu_ms: Some(ms(used.istiod)),
            ..Cost::default()
        };
        if let (Some(counted), Some(passed)) = (self.pod, passed) {
            let passed = Passed::by(counted.shim).await?.since(&passed);
            cost.sidecar_cpu_ms = Some(ms(used.sidecar));
            cost.shim_cpu_ms = counted.own.then(|| ms(used.shim));
            cost.bytes_from_istiod = Some(passed.from_istiod);
            cost.bytes_to_sidecar = Some(passed.to_sidecar);
        }
        Ok(cost)
    }

    async fn costs(&self, services: &Services, scope: Scope) -> Result<Changes> {
        let idle = if scope.times {
            self.idle().await?
        } else {
            self.quiet().await?;
            Used::default()
        };
        let mut all = Vec::new();
        for _ in 0..scope.repetitions {
            let cost = async |change| self.cost(change, services, idle).await.map(Some);
            let changes = Changes {
                endpoint: cost(Change::Endpoint).await?,
                unused_endpoint: cost(Change::UnusedEndpoint).await?,
                new_service: cost(Change::NewService).await?,
                full_push: cost(Change::FullPush).await?,
            };
            all.push(Way {
                changes: Some(changes),
                ..Way::default()
            });
        }
        for service in [USED, UNUSED] {
            services.change_endpoints(service, None).await?;
        }
        self.quiet().await?;
        Ok(Way::medians(&all)?.changes.unwrap_or_default())
    }
}

/// Of changes while nobody but the servers is connected: what istiod does for itself.
pub(super) async fn alone(mesh: &Mesh, services: &Services, scope: Scope) -> Result<Changes> {
    Watched { mesh, pod: None }.costs(services, scope).await
}

/// Of changes for one sidecar: medians. What istiod does beyond that for itself is not counted.
pub(super) async fn of(
    counted: &Counted<'_>,
    services: &Services,
    scope: Scope,
    alone: &Changes,
) -> Result<Changes> {
    let watched = Watched {
        mesh: counted.pod.mesh(),
        pod: Some(counted),
    };
    let mut costs = watched.costs(services, scope).await?;
    let pairs = [
        (&mut costs.endpoint, &alone.endpoint),
        (&mut costs.unused_endpoint, &alone.unused_endpoint),
        (&mut costs.new_service, &alone.new_service),
        (&mut costs.full_push, &alone.full_push),
    ];
    for (cost, alone) in pairs {
        let alone = alone.as_ref().and_then(|alone| alone.istiod_cpu_ms);
        if let (Some(cost), Some(alone)) = (cost.as_mut(), alone) {
            cost.istiod_cpu_ms = cost.istiod_cpu_ms.map(|all| (all - alone).max(0.0));
        }
    }
    Ok(costs)
}
