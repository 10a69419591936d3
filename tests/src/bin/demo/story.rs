//! What happens, in order.

use crate::args::Args;
use crate::authority::Authority;
use crate::calls::{Targets, Times};
use crate::growing;
use crate::learned;
use crate::mesh;
use crate::network::{self, MACHINE};
use crate::parts::Parts;
use crate::report::{Costs, Report};
use crate::screen::Screen;
use crate::sidecar::{Place, Sidecar};
use crate::table::{self, megabytes};
use crate::upstreams;
use anyhow::{Context, Result, bail, ensure};
use mesh_tests::embedded::resources::{CDS, LDS};
use mesh_tests::embedded::shape::outbound_cluster;
use mesh_tests::embedded::{ControlPlane, Following, MeshShape};
use mesh_tests::sandbox::Sandbox;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The namespace that is in mode on-demand.
const LAZY_NAMESPACE: &str = "shop";
/// The namespace that is in mode sidecar.
const GROWING_NAMESPACE: &str = "market";
/// The namespace that is in neither.
const PLAIN_NAMESPACE: &str = "plain";
const WORKLOAD: &str = "client";
const DISCOVERY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(MACHINE), 15010);
/// Lines of the learned graph that are shown.
const SHOWN: usize = 4;

/// Everything, from an empty sandbox to the table.
///
/// # Errors
/// When a part fails, or the lazy sidecar is not lazy.
pub(crate) async fn tell(args: &Args, sandbox: &Sandbox) -> Result<()> {
    let mut stage = Stage::set(args, sandbox).await?;

    let place = stage.place(1, PLAIN_NAMESPACE, WORKLOAD).await?;
    let (sidecar, plain) = stage.plain_sidecar(&place).await?;
    let lazy_place = stage.place(2, LAZY_NAMESPACE, WORKLOAD).await?;
    let growing_place = stage.place(3, GROWING_NAMESPACE, WORKLOAD).await?;
    let parts = stage.parts(&growing_place)?;
    let controller = parts.controller().await?;
    let shim = parts.shim(DISCOVERY).await?;
    let (lazy_sidecar, lazy) = stage.lazy_sidecar(&lazy_place, &parts).await?;
    lazy.expect_lazy(&plain)?;

    let [plain_first, plain_later, first, later] = stage.calls(&place, &lazy_place).await?;
    let learned = stage.learned(&parts, &lazy_place).await?;
    sidecar.stop().await?;
    lazy_sidecar.stop().await?;
    shim.stop().await?;
    let shim = parts.shim(DISCOVERY).await?;
    let warm = stage.warm_start(&lazy_place, &parts).await?;
    shim.stop().await?;

    let others = std::mem::take(&mut stage.others);
    let growing = growing::tell(&mut stage, &parts, &plain, &others, &growing_place).await?;
    controller.stop().await?;

    let report = Report {
        services: args.services,
        plain,
        lazy,
        first_call_ms: first.medians(),
        later_call_ms: later.medians(),
        learned,
        warm_start_first_call_ms: warm.medians().http,
        sidecar: growing,
    };
    stage.end(&report, &plain_first, &plain_later)
}

/// The mesh that all of it happens in.
pub(crate) struct Stage<'a> {
    args: &'a Args,
    sandbox: &'a Sandbox,
    pub(crate) screen: Screen,
    pub(crate) plane: ControlPlane,
    authority: Authority,
    targets: Targets,
    /// Those of act two.
    others: Targets,
    /// The control plane's look at the folder that the controller writes to, once there is one.
    following: Option<Following>,
}

impl<'a> Stage<'a> {
    async fn set(args: &'a Args, sandbox: &'a Sandbox) -> Result<Self> {
        let mut screen = Screen::new();
        screen.plain(
            "Lazymesh: the same workload with a plain sidecar and with lazy ones, on this machine.",
        );
        screen.step(&format!(
            "A mesh of {} services, from a control plane shaped like istiod",
            args.services
        ));
        network::set_up().await.context("the sandbox's network")?;
        let mut shape = MeshShape::with_services(args.services).auto_mtls(true);
        let targets = Targets::of(&shape);
        let others = targets.others(&shape).with_sidecars();
        let secured = others.services();
        shape
            .services
            .extend(secured.map(|service| (service.host(), service.clone())));
        let authority = Authority::new()?;
        upstreams::start(&shape, &authority).await?;
        let plane = ControlPlane::start(DISCOVERY, shape).await?;
        let snapshot = plane.snapshot(LAZY_NAMESPACE);
        let count = |url| {
            snapshot
                .table(url)
                .map_or(0, std::collections::BTreeMap::len)
        };
        screen.line(&format!(
            "{} clusters, {} listeners, every endpoint a real server",
            count(CDS),
            count(LDS)
        ));
        Ok(Self {
            args,
            sandbox,
            screen,
            plane,
            authority,
            targets,
            others,
            following: None,
        })
    }

    pub(crate) async fn place(&self, index: u8, namespace: &str, workload: &str) -> Result<Place> {
        let (dir, authority) = (self.sandbox.dir(), &self.authority);
        let place = Place::create(index, namespace, workload, dir, authority);
        place
            .await
            .with_context(|| format!("the pod of {namespace}/{workload}"))
    }

    /// Lazymesh's own parts, with the mesh as documents in the controller's folder. `growing`: the pod in mode sidecar.
    fn parts(&mut self, growing: &Place) -> Result<Parts> {
        let parts = Parts::prepare(self.args, self.sandbox.dir(), &self.authority)?;
        let modes = [
            (LAZY_NAMESPACE, "on-demand"),
            (GROWING_NAMESPACE, "sidecar"),
        ];
        mesh::write(&parts.store, &self.plane.shape(), &modes, &growing.identity)?;
        let folder = mesh::folder(&parts.store);
        self.following = Some(self.plane.follow(vec![folder]));
        Ok(parts)
    }

    async fn start(&self, place: &Place, discovery: SocketAddr) -> Result<Sidecar> {
        let started = Sidecar::start(place, discovery, &self.args.envoy, &self.args.logs()).await;
        self.expect_accepted()?;
        started
    }

    /// Starts a sidecar straight on the control plane.
    pub(crate) async fn start_plain(&self, place: &Place) -> Result<Sidecar> {
        self.start(place, DISCOVERY).await
    }

    /// Fails when an Envoy has rejected config, or the control plane does not understand what is written for it; that is
    /// why something is not ready, then.
    fn expect_accepted(&self) -> Result<()> {
        if let Some(fault) = self.following.as_ref().and_then(Following::fault) {
            bail!("the control plane does not understand {fault}");
        }
        let streams = self.plane.streams();
        let rejected = streams
            .iter()
            .flat_map(|stream| stream.nacks())
            .find_map(|nack| nack.error.as_deref());
        rejected.map_or(Ok(()), |error| bail!("Envoy rejected config: {error}"))
    }

    async fn plain_sidecar(&mut self, place: &Place) -> Result<(Sidecar, Costs)> {
        self.screen
            .step("A plain sidecar: Envoy straight on the control plane");
        let sidecar = self.start(place, DISCOVERY).await?;
        let costs = self.show(&sidecar).await?;
        Ok((sidecar, costs))
    }

    async fn lazy_sidecar(&mut self, place: &Place, parts: &Parts) -> Result<(Sidecar, Costs)> {
        self.screen
            .step("A lazy sidecar: the same Envoy through xds-shim");
        self.screen.line(&format!(
            "namespace {LAZY_NAMESPACE} is labelled lazymesh.dev/mode: on-demand; nothing is learned yet"
        ));
        let sidecar = self.start(place, parts.discovery()).await?;
        let costs = self.show(&sidecar).await?;
        Ok((sidecar, costs))
    }

    pub(crate) async fn show(&self, sidecar: &Sidecar) -> Result<Costs> {
        let costs = sidecar.costs().await?;
        self.screen.line(&format!(
            "ready in {:.0} ms with {} of config: {} clusters, {} listeners; heap {}, RSS {}",
            costs.ready_ms,
            megabytes(costs.config_bytes),
            costs.clusters,
            sidecar.listeners().await?,
            megabytes(costs.heap_bytes),
            megabytes(costs.rss_bytes),
        ));
        Ok(costs)
    }

    /// First and later calls of the plain sidecar, then of the lazy one.
    async fn calls(&mut self, plain: &Place, lazy: &Place) -> Result<[Times; 4]> {
        self.screen
            .step("Calls to services that were never called before");
        let round = async |place: &Place, name: &str| {
            let first = self
                .targets
                .call(&place.client)
                .await
                .with_context(|| format!("the first calls, {name}"))?;
            let later = self
                .targets
                .call(&place.client)
                .await
                .with_context(|| format!("later calls, {name}"))?;
            let (one, two) = (first.medians(), later.medians());
            self.screen.line(&format!(
                "{name}: HTTP first {:.1} ms, later {:.1} ms; TCP first {:.1} ms, later {:.1} ms",
                one.http, two.http, one.tcp, two.tcp
            ));
            anyhow::Ok((first, later))
        };
        let (plain_first, plain_later) = round(plain, "plain").await?;
        let (first, later) = round(lazy, "lazy ").await?;
        self.screen.good(&format!(
            "{} of {} first calls answered by the right service (medians above)",
            first.count(),
            first.count()
        ));
        Ok([plain_first, plain_later, first, later])
    }

    async fn learned(&mut self, parts: &Parts, place: &Place) -> Result<Vec<String>> {
        self.screen.step("What the controller has learned");
        let lines = self
            .targets
            .names()
            .map(|(host, port)| learned::line(&place.identity, &host, port));
        let learned = learned::dependencies(parts, &place.identity, &lines.collect()).await?;
        learned
            .iter()
            .take(SHOWN)
            .for_each(|line| self.screen.line(line));
        let more = learned.len().saturating_sub(SHOWN);
        self.screen.line(&format!(
            "and {more} more, as YAML in {}:",
            parts.store.display()
        ));
        for file in parts.files()? {
            self.screen.line(&format!("  {file}"));
        }
        Ok(learned)
    }

    /// A new Envoy on a new shim: what was learned is there before the first call.
    async fn warm_start(&mut self, place: &Place, parts: &Parts) -> Result<Times> {
        self.screen.step("Shim and sidecar start anew");
        let sidecar = self.start(place, parts.discovery()).await?;
        self.show(&sidecar).await?;
        let has = sidecar.cluster_names().await?;
        let needed: BTreeSet<_> = self
            .targets
            .names()
            .map(|(host, port)| outbound_cluster(&host, port))
            .collect();
        let missing: Vec<_> = needed.difference(&has).collect();
        ensure!(
            missing.is_empty(),
            "the start was not warm: {} learned clusters are missing, the first is {}",
            missing.len(),
            missing[0]
        );
        let before = sidecar.clusters_added().await?;
        let times = self
            .targets
            .call(&place.client)
            .await
            .context("the first calls after the restart")?;
        let asked = sidecar.clusters_added().await? - before;
        ensure!(
            asked == 0,
            "the start was not warm: {asked} clusters came only when they were called"
        );
        self.screen.good(&format!(
            "{} learned services were there before any call; the first call takes {:.1} ms, nothing is held",
            needed.len(),
            times.medians().http
        ));
        sidecar.stop().await?;
        Ok(times)
    }

    fn end(&mut self, report: &Report, plain_first: &Times, plain_later: &Times) -> Result<()> {
        self.expect_accepted()?;
        self.screen.step("In figures");
        for line in table::lines(report, plain_first.medians(), plain_later.medians()) {
            self.screen.line(&line);
        }
        report.write(&self.args.report())?;
        self.screen
            .line(&format!("written to {}", self.args.report().display()));
        Ok(())
    }
}
