//! Acts on the mode `sidecar`, and on workloads that settle: plans namespaces as the mesh and the graph change, and as the leader writes what they lack.
//!
//! The decisions are [`crate::plan`]'s and the agenda's; here they meet clocks, the cluster and the store. Nothing that
//! fails here ends the process: it is tried again, and said in metrics, in conditions and on `/debug/sidecars`.

pub mod metrics;

mod agenda;
mod conditions;
mod page;
mod place;
mod plans;
mod queue;
mod rate;
mod warming;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dependency_graph::Change;
use futures::FutureExt;
use mesh_runtime::drain::Drain;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

pub use agenda::Choices;

use crate::cluster::{Cluster, Fault, News, Watched};
use crate::given::Given;
use crate::history::WarmStart;
use crate::lease::Leading;
use crate::plan::actions::Now;
use crate::plan::{Desired, plan_namespace};
use crate::settle::Settling;
use crate::state::{State, Watcher};
use crate::store::{self, Store};
use agenda::Agenda;
use metrics::{Metrics, Outcome};
use queue::{Job, Key};
use rate::Rate;
use warming::Warming;

/// Writes under way at once.
const WRITES: usize = 16;
/// Changes of the graph taken in at once.
const CHANGES: usize = 256;

/// What the mode needs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where objects are written.
    pub cluster: Arc<dyn Cluster>,
    /// What is known of them.
    pub watched: Watched,
    /// The graph.
    pub state: State,
    /// Where conditions are written.
    pub store: Arc<dyn Store>,
    /// What workloads are given: told from here.
    pub given: Given,
    /// Whether this replica writes.
    pub leading: Leading,
    /// What is counted.
    pub metrics: Metrics,
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Sidecars {
    parts: Parts,
    agenda: Arc<Mutex<Agenda>>,
    writes_per_second: u32,
    warm: Option<WarmStart>,
}

impl Sidecars {
    /// Acts as chosen, with so many writes a second at most.
    #[must_use]
    pub fn new(parts: Parts, choices: Choices, writes_per_second: u32) -> Self {
        let (given, metrics) = (parts.given.clone(), parts.metrics.clone());
        Self {
            parts,
            agenda: Arc::new(Mutex::new(Agenda::new(choices, given, metrics))),
            writes_per_second,
            warm: None,
        }
    }

    /// Begins no namespace before its past is learned.
    #[must_use]
    pub fn after(self, warm: WarmStart) -> Self {
        let warm = Some(warm).filter(WarmStart::is_able);
        Self { warm, ..self }
    }

    /// What each namespace waits for.
    #[must_use]
    pub fn page(&self) -> Value {
        let troubles = self.parts.watched.troubles();
        let agenda = self.agenda.lock();
        let world = self.parts.watched.world().read();
        let mut page = agenda.page(&world, Instant::now());
        let troubles = troubles.iter().map(|(kind, why)| format!("{kind}: {why}"));
        let unreadable = world
            .unreadable()
            .map(|(kind, name, why)| format!("{kind} {name}: {why}"));
        page["mesh_config"] = json!(world.mesh_config_fault().unwrap_or_else(|| "read".into()));
        page["not_watched"] = json!(troubles.collect::<Vec<_>>());
        page["unreadable"] = json!(unreadable.collect::<Vec<_>>());
        page
    }

    /// Acts until the drain starts and what is under way is done.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(self, drain: Drain) -> Result<(), Infallible> {
        let known = async {
            self.parts.state.synced().await;
            self.parts.watched.synced().await;
        };
        tokio::select! {
            () = known => {}
            () = drain.started() => return Ok(()),
        }
        info!("the mesh is known: planning");
        let writer = Writing {
            rate: Rate::new(self.writes_per_second),
            of: self,
            writes: JoinSet::new(),
            plans: JoinSet::new(),
            warming: Warming::default(),
        };
        writer.run(&drain).await;
        Ok(())
    }
}

type Done = (Key, Job, Result<(), Fault>);
type Plans = (Vec<(String, Desired)>, Duration);

/// The loop's own.
struct Writing {
    of: Sidecars,
    rate: Rate,
    writes: JoinSet<Done>,
    plans: JoinSet<Plans>,
    warming: Warming,
}

impl Writing {
    async fn run(mut self, drain: &Drain) {
        let parts = self.of.parts.clone();
        let watcher = parts.state.watch_within();
        let mut leading = parts.leading.changes();
        // Whatever came before.
        let first = News {
            everything: true,
            ..parts.watched.news()
        };
        self.take_in(&first);
        while !drain.is_draining() {
            let wake = self.turn(&watcher);
            let wake = async {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wake => {}
                () = watcher.told().changed() => {}
                () = parts.watched.changed() => self.take_in(&parts.watched.news()),
                Some(done) = self.writes.join_next() => match done {
                    Ok(done) => self.wrote(done),
                    Err(error) => warn!(%error, "a write ended badly"),
                },
                Some(done) = self.plans.join_next() => match done {
                    Ok((mut plans, took)) => {
                        self.hold_cold(&mut plans);
                        let mut agenda = self.of.agenda.lock();
                        let world = parts.watched.world().read();
                        agenda.planned(&world, &parts.state, plans, took, now());
                    }
                    Err(error) => self.plan_failed(&error),
                },
                namespace = self.warming.next() => {
                    self.of.agenda.lock().plan_at(&namespace, Instant::now());
                }
                _ = leading.changed() => {}
                () = drain.started() => {}
            }
        }
        while let Some(done) = self.writes.join_next().await {
            if let Ok(done) = done {
                self.wrote(done);
            }
        }
        self.of.agenda.lock().lead(false, Instant::now());
    }

    /// Namespaces that have no Sidecar yet and whose past is not learned get only their fallback.
    fn hold_cold(&mut self, plans: &mut [(String, Desired)]) {
        let (Some(warm), true) = (&self.of.warm, self.of.parts.leading.now()) else {
            return;
        };
        let world = self.of.parts.watched.world().read();
        let warming = &mut self.warming;
        for (namespace, desired) in plans {
            if desired.filters.is_empty() {
                warming.forget(namespace);
                continue;
            }
            let begun = || world.sidecars(namespace).any(|(_, one)| one.ours.is_some());
            if !begun() && !warming.is_warm(namespace, warm) {
                desired.hold();
            }
        }
    }

    fn take_in(&mut self, news: &News) {
        let mut agenda = self.of.agenda.lock();
        let world = self.of.parts.watched.world().read();
        agenda.news(&world, news, Instant::now());
    }

    /// Does all that can be done now; says when there will be something if nothing happens before.
    fn turn(&mut self, watcher: &Watcher) -> Option<Instant> {
        let Parts {
            watched,
            state,
            leading,
            ..
        } = self.of.parts.clone();
        let agenda = self.of.agenda.clone();
        let mut agenda = agenda.lock();
        let (leads, now) = (leading.now(), now());
        agenda.lead(leads, now.tick);
        {
            let world = watched.world().read();
            // The snapshot of the watch is what is planned anyway.
            loop {
                let changes = watcher.told().take(CHANGES);
                if changes.is_empty() {
                    break;
                }
                for change in changes {
                    if let Change::Workload(workload) = change {
                        let (record, wish) = (state.view(&workload), state.wish(&workload));
                        let known = (record.as_deref(), &wish);
                        agenda.learned(&world, &workload, known, now);
                    }
                }
            }
            agenda.look(&world, &state, now);
        }
        self.start_plan(&mut agenda, now);
        let blocked = self.start_writes(&mut agenda, leads, now.tick);
        let wakes = agenda.wakes_at();
        blocked.into_iter().chain(wakes).min()
    }

    fn start_plan(&mut self, agenda: &mut Agenda, now: Now) {
        let due = agenda.plans_due(now.tick);
        if due.is_empty() {
            return;
        }
        let (settings, parts) = (agenda.settings().clone(), self.of.parts.clone());
        self.plans.spawn_blocking(move || {
            let begun = Instant::now();
            // Copies, which cost little: whoever answers calls must not wait for a plan.
            let graph = parts.state.told_graph(now.wall);
            let settling = Settling {
                wishes: parts.state.wishes(),
                now: now.wall,
            };
            let world = parts.watched.world().read().clone();
            let plan = |namespace: String| {
                let desired = plan_namespace(&world, &graph, &namespace, &settings, &settling);
                (namespace, desired)
            };
            let plans = due.into_iter().map(plan).collect();
            (plans, begun.elapsed())
        });
    }

    /// Starts writes for as long as there is room; says when there will be more, if the rate is what they wait for.
    fn start_writes(&mut self, agenda: &mut Agenda, leads: bool, now: Instant) -> Option<Instant> {
        while leads && self.writes.len() < WRITES && !agenda.queue.is_empty() {
            if let Err(at) = self.rate.take(now) {
                return Some(at);
            }
            if let Some((key, job)) = agenda.queue.pop() {
                let parts = self.of.parts.clone();
                self.writes.spawn(async move {
                    let write = AssertUnwindSafe(write(&parts, &key, &job)).catch_unwind();
                    let badly = |_| Err(Fault::Unavailable("it ended badly".to_owned()));
                    let result = write.await.unwrap_or_else(badly);
                    (key, job, result)
                });
            }
        }
        None
    }

    fn wrote(&mut self, (key, job, result): Done) {
        let metrics = &self.of.parts.metrics;
        match &result {
            Ok(()) => {
                debug!("{key}: written");
                metrics.wrote(match job {
                    Job::Apply { .. } => Outcome::Applied,
                    Job::Delete { .. } => Outcome::Deleted,
                    Job::Say { .. } => Outcome::Said,
                });
            }
            Err(fault) => {
                warn!("{key}: not written: {fault}");
                metrics.wrote(fault.into());
            }
        }
        let mut agenda = self.of.agenda.lock();
        let world = self.of.parts.watched.world().read();
        agenda.done(&world, &key, job, result, now());
    }

    /// The namespaces of a plan that ended badly are planned again.
    fn plan_failed(&mut self, error: &tokio::task::JoinError) {
        warn!(%error, "a plan ended badly");
        let news = News {
            everything: true,
            ..Default::default()
        };
        self.of.agenda.lock().plan_failed(Instant::now());
        self.take_in(&news);
    }
}

/// Writes, and makes the world show it.
async fn write(parts: &Parts, key: &Key, job: &Job) -> Result<(), Fault> {
    let Parts {
        cluster,
        watched,
        store,
        ..
    } = parts;
    match (key, job) {
        (Key::Object(kind, name), Job::Apply { object, made }) => {
            let written = cluster.apply(*kind, name, object, made.as_ref()).await?;
            watched.wrote(*kind, &written);
            Ok(())
        }
        (Key::Object(kind, name), Job::Delete { uid }) => {
            cluster.delete(*kind, name, uid).await?;
            watched.deleted(*kind, name, uid);
            Ok(())
        }
        (Key::Record(workload), Job::Say { said, make }) => {
            let said = store.say(workload, said, *make).await;
            said.map_err(|error| match error {
                store::Error::Unavailable(why) => Fault::Unavailable(why),
                error => Fault::Refused(error.to_string()),
            })
        }
        // A key and a job are made together.
        (Key::Object(..), Job::Say { .. }) | (Key::Record(_), _) => Ok(()),
    }
}

fn now() -> Now {
    Now {
        wall: SystemTime::now().into(),
        tick: Instant::now(),
    }
}
