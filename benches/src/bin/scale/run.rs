//! One case, from the first sidecar to the last restart. What there is no time for is left out, and said to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::stats::median;
use parking_lot::RwLock;
use tokio::time::sleep;

use crate::board::Board;
use crate::case::{Beside, Case, Found, Latency, LeftOut, Spent};
use crate::direct::Direct;
use crate::encoded::Encoded;
use crate::fleet::{Fleet, What};
use crate::mesh::{self, Workload};
use crate::plane::Plane;
use crate::process::{Cpu, Process};
use crate::rules::Push;
use crate::shim;

/// More sidecars than these are not connected a second time, without the shim: descriptors.
pub(crate) const MOST_DIRECT: usize = 1000;
/// How long an endpoint change may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Between two changes, so that what one leaves to be done is not in the other's way.
const PAUSE: Duration = Duration::from_millis(10);
/// Changes of services that few sidecars use, for each change of the one that all use: they tell less each.
const OF_FEW: usize = 5;
/// How often it is looked whether all stand-ins are gone.
const POLL: Duration = Duration::from_millis(100);
/// Full pushes, if there is time.
const PUSHES: usize = 3;
/// What a restart of one workload takes at the least, beside its bytes.
const RESTART: Duration = Duration::from_millis(100);

/// What holds for all cases.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) shim: PathBuf,
    /// For logs.
    pub(crate) folder: PathBuf,
    /// What a case may take.
    pub(crate) limit: Duration,
    /// How many endpoint changes.
    pub(crate) changes: usize,
    pub(crate) pushes_at_once: usize,
}

/// A mesh, ready to be sent.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) services: u32,
    encoded: Arc<RwLock<Encoded>>,
    workloads: Vec<Workload>,
    /// Changes so far: each has a number of its own.
    changes: u32,
}

impl Mesh {
    pub(crate) fn new(services: u32) -> Result<Self> {
        let encoded = Encoded::new(&mesh::shape(services))?;
        Ok(Self {
            services,
            encoded: Arc::new(RwLock::new(encoded)),
            workloads: mesh::workloads(services),
            changes: 0,
        })
    }

    /// What each stream is sent, in bytes.
    pub(crate) fn config_bytes(&self) -> usize {
        self.encoded.read().bytes_per_stream()
    }

    /// Changes the endpoints of a service: the number of the change, and what is to be pushed.
    fn change(&mut self, service: u32) -> (u32, Push) {
        self.changes += 1;
        let mut changed = mesh::service(service);
        changed.endpoints = mesh::changed_endpoints(&changed, self.changes);
        let names = self.encoded.write().put_endpoints(&changed);
        (self.changes, Push::Endpoints(names))
    }

    /// How many of so many sidecars use a service.
    fn users(&self, service: u32, sidecars: usize) -> usize {
        let all = self.workloads.iter().cycle().take(sidecars);
        let uses = |one: &&Workload| one.uses.iter().any(|used| used.service == service);
        all.filter(uses).count()
    }
}

/// A case that runs.
pub(crate) struct Run<'a> {
    case: Case,
    mesh: &'a mut Mesh,
    settings: &'a Settings,
    plane: Plane,
    shim: Process,
    fleet: Fleet,
    /// When it must be over.
    until: Instant,
    /// Bytes that all together move in a second.
    rate: f64,
    pub(crate) left_out: Vec<LeftOut>,
}

/// Where something began.
struct Mark {
    began: Instant,
    cpu: Cpu,
    bytes_in: u64,
    bytes_out: u64,
    broken: u64,
}

impl<'a> Run<'a> {
    /// Starts the control plane, the shim, and sidecars that are not connected.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub(crate) async fn start(
        case: Case,
        mesh: &'a mut Mesh,
        settings: &'a Settings,
    ) -> Result<Self> {
        let plane = Plane::start(Arc::clone(&mesh.encoded), settings.pushes_at_once)?;
        let (shim, address) = shim::start(&settings.shim, &settings.folder, plane.address).await?;
        let fleet = Fleet::new(case.sidecars, &mesh.workloads, address);
        Ok(Self {
            case,
            mesh,
            settings,
            plane,
            shim,
            fleet,
            until: Instant::now() + settings.limit,
            rate: f64::INFINITY,
            left_out: Vec::new(),
        })
    }

    /// All of it. `found` has what was found when it does not come to its end, too.
    ///
    /// # Errors
    /// When the shim ends, or a sidecar does not get what it is to have.
    pub(crate) async fn measure(&mut self, found: &mut Found) -> Result<()> {
        self.connect(found).await.context("connecting")?;
        self.rest(found).await.context("waiting for rest")?;
        self.changes(found).await.context("endpoint changes")?;
        self.full_pushes(found).await.context("full pushes")?;
        let bytes = self.all_bytes();
        if self.has_time_for("a reconnect storm", self.time_of(bytes)) {
            let began = self.mark().await?;
            let all = 0..self.fleet.len();
            self.fleet.order(all, What::Reconnect).await?;
            found.reconnect_storm = Some(self.spent(began).await?);
        }
        let workloads = mesh::WORKLOADS as usize;
        let rolling = self.time_of(bytes).mul_f64(1.5) + RESTART * mesh::WORKLOADS;
        if self.has_time_for("a rolling restart", rolling) {
            let began = self.mark().await?;
            for workload in 0..workloads.min(self.fleet.len()) {
                let its = (workload..self.fleet.len()).step_by(workloads);
                self.fleet.order(its, What::Restart).await?;
            }
            found.rolling_restart = Some(self.spent(began).await?);
        }
        Ok(())
    }

    /// What the sidecars saw of broken streams.
    pub(crate) fn note_broken(&self, found: &mut Found) {
        let counts = &self.fleet.counts;
        found.broken_streams = counts.broken.load(Ordering::Relaxed);
        found.broken_why.clone_from(&*counts.why.lock());
    }

    /// Fails when the shim ended, or refused something: what follows from that need not be told.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.shim.check()?;
        self.plane.check()
    }

    /// Ends all of it.
    pub(crate) async fn end(self) {
        self.fleet.end().await;
    }

    async fn connect(&mut self, found: &mut Found) -> Result<()> {
        let first = self.fleet.len().min(mesh::NAMESPACES as usize);
        self.fleet.order(0..first, What::Restart).await?;
        self.shim.rests().await?;
        found.rss_of_first_bytes = Some(self.shim.running().rss()?);
        let began = self.mark().await?;
        let others = first..self.fleet.len();
        self.fleet.order(others, What::Restart).await?;
        let spent = self.spent(began).await?;
        self.rate = spent.bytes_in as f64 / spent.seconds;
        found.connect = Some(spent);
        Ok(())
    }

    /// What the first calls ran on goes after a while.
    async fn rest(&mut self, found: &mut Found) -> Result<()> {
        while self.fleet.counts.copies.load(Ordering::Relaxed) > 0 {
            sleep(POLL).await;
        }
        self.plane.settled(self.fleet.len()).await?;
        self.shim.rests().await?;
        let resident = self.shim.running().rss()?;
        found.rss_bytes = Some(resident);
        let further = self.fleet.len().saturating_sub(mesh::NAMESPACES as usize) as u64;
        let of_first = found.rss_of_first_bytes.unwrap_or_default();
        found.rss_bytes_per_stream = resident.saturating_sub(of_first).checked_div(further);
        Ok(())
    }

    async fn changes(&mut self, found: &mut Found) -> Result<()> {
        let count = self.fleet.len();
        let direct = if count <= MOST_DIRECT {
            let encoded = Arc::clone(&self.mesh.encoded);
            let plane = Plane::start(encoded, self.settings.pushes_at_once)?;
            let direct = Direct::connect(count, &self.mesh.workloads, plane.address).await?;
            Some((plane, direct))
        } else {
            self.leave_out(
                "endpoint changes without the shim",
                format!("only up to {MOST_DIRECT} sidecars: too many connections"),
            );
            None
        };
        let common = vec![mesh::COMMON; self.settings.changes];
        found.change_of_common = self.changes_of(&common, direct.as_ref()).await?;
        found.last_sidecar_ms = found.change_of_common.map(|beside| beside.shim.last_ms);
        let present = self.mesh.workloads.iter().take(count);
        let lasts = present.filter_map(|one| Some(one.uses.last()?.service));
        let own: Vec<u32> = lasts.cycle().take(OF_FEW * self.settings.changes).collect();
        found.change_of_one = self.changes_of(&own, direct.as_ref()).await?;
        if let Some((_, direct)) = direct {
            direct.end().await;
        }
        found.unused_change_bytes = self.unused_change().await?;
        Ok(())
    }

    /// Changes of these services, one after the other; each without the shim first, if there are sidecars for that.
    async fn changes_of(
        &mut self,
        services: &[u32],
        direct: Option<&(Plane, Direct)>,
    ) -> Result<Option<Beside>> {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for service in services {
            if let Some((plane, direct)) = direct {
                let users = self.mesh.users(*service, self.fleet.len());
                let (change, push) = self.mesh.change(*service);
                without.push(change_all(plane, &direct.board, change, users, &push).await?);
                sleep(PAUSE).await;
            }
            with.push(self.change(*service).await?);
            self.plane.settled(self.fleet.len()).await?;
            sleep(PAUSE).await;
        }
        Ok(Latency::of(&with).map(|shim| Beside {
            shim,
            without: Latency::of(&without),
        }))
    }

    async fn change(&mut self, service: u32) -> Result<Vec<Duration>> {
        let users = self.mesh.users(service, self.fleet.len());
        let (change, push) = self.mesh.change(service);
        change_all(&self.plane, &self.fleet.board, change, users, &push).await
    }

    /// A change of a service that nobody uses; bytes that sidecars were sent for it. What a stream is sent comes in
    /// order: whoever has the change that follows was sent nothing that is still on its way.
    async fn unused_change(&mut self) -> Result<Option<u64>> {
        let Some(unused) = mesh::unused(&self.mesh.workloads, self.mesh.services) else {
            let why = "each service is used by a workload".to_owned();
            self.leave_out("a change of a service that nobody uses", why);
            return Ok(None);
        };
        let counts = Arc::clone(&self.fleet.counts);
        let read = || {
            let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            of(&counts.bytes) - of(&counts.bytes_of_change)
        };
        let before = read();
        let (_, push) = self.mesh.change(unused);
        self.plane.push(&push);
        self.change(mesh::COMMON).await?;
        Ok(Some(read() - before))
    }

    async fn full_pushes(&mut self, found: &mut Found) -> Result<()> {
        for _ in 0..PUSHES {
            let time = self.time_of(self.all_bytes());
            let first = found.full_pushes.is_empty();
            if !first && Instant::now() + 3 * time > self.until {
                break; // what else there is to measure is worth more
            }
            if !self.has_time_for("a full push", time) {
                break;
            }
            let began = self.mark().await?;
            self.plane.push(&Push::Everything);
            self.plane.settled(self.fleet.len()).await?;
            found.full_pushes.push(self.spent(began).await?);
        }
        let of = |of: fn(&Spent) -> f64| median(found.full_pushes.iter().map(of).collect());
        found.full_push_cpu_s = of(Spent::cpu_s);
        found.ingest_bytes_per_core_s = of(Spent::ingest);
        Ok(())
    }

    async fn mark(&self) -> Result<Mark> {
        let cpu = self.shim.rests().await?;
        self.shim.running().forget_peak()?;
        Ok(Mark {
            began: Instant::now(),
            cpu,
            bytes_in: self.plane.sent(),
            bytes_out: self.fleet.counts.bytes.load(Ordering::Relaxed),
            broken: self.fleet.counts.broken.load(Ordering::Relaxed),
        })
    }

    /// What was spent by now, and by the time that the shim has nothing left to do.
    async fn spent(&self, began: Mark) -> Result<Spent> {
        let seconds = began.began.elapsed().as_secs_f64();
        self.plane.settled(self.fleet.len()).await?;
        let cpu = self.shim.rests().await?;
        Ok(Spent {
            seconds,
            cpu_user_s: cpu.user_s - began.cpu.user_s,
            cpu_system_s: cpu.system_s - began.cpu.system_s,
            bytes_in: self.plane.sent() - began.bytes_in,
            bytes_out: self.fleet.counts.bytes.load(Ordering::Relaxed) - began.bytes_out,
            peak_rss_bytes: self.shim.running().peak_rss()?,
            broken_streams: self.fleet.counts.broken.load(Ordering::Relaxed) - began.broken,
        })
    }

    /// What the control plane sends when it sends everything to everybody.
    fn all_bytes(&self) -> f64 {
        self.case.sidecars as f64 * self.mesh.config_bytes() as f64
    }

    fn time_of(&self, bytes: f64) -> Duration {
        Duration::from_secs_f64(bytes / self.rate)
    }

    /// Whether there is time for something; if not, it is left out.
    fn has_time_for(&mut self, what: &str, time: Duration) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if time <= left {
            return true;
        }
        let why = format!(
            "it takes {:.0} s or so, and {:.0} s are left of the {:.0} s that a case may take",
            time.as_secs_f64(),
            left.as_secs_f64(),
            self.settings.limit.as_secs_f64()
        );
        self.leave_out(what, why);
        false
    }

    fn leave_out(&mut self, what: &str, why: String) {
        self.left_out.push(LeftOut {
            case: self.case.to_string(),
            what: what.to_owned(),
            why,
        });
    }
}

/// Pushes a change and waits until all have it; how long each took.
async fn change_all(
    plane: &Plane,
    board: &Board,
    change: u32,
    users: usize,
    push: &Push,
) -> Result<Vec<Duration>> {
    board.begin(change, users);
    plane.push(push);
    board.all(CHANGE_LIMIT).await
}
