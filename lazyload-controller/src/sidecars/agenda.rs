//! What is to be done next for the mode `sidecar`, as a function of what came: pure, the moment is passed in.
//!
//! A host that was just learned goes out at once, without a plan of its namespace; everything else is gathered for a
//! moment, so that a burst of changes is one plan and one write of each object. Every replica plans, for each must be able
//! to say what workloads are given; only the leader writes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dependency_graph::{Mode, Record, Workload, mode};

use super::metrics::{Come, Metrics};
use super::place::Place;
use super::plans::Plans;
use super::queue::{Job, Key, Queue, Urgency};
use crate::cluster::{Fault, News};
use crate::given::Given;
use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name, World};
use crate::plan::actions::{self, Action, Memory, Now, Pace, Todo, differs};
use crate::plan::{Desired, Settings, grow_by};
use crate::render::sidecar::Stage;
use crate::settle::{Verdict, Wish, judge};
use crate::state::State;

/// How long changes are gathered.
const WINDOW: Duration = Duration::from_millis(50);
/// How long after growth its namespace is planned all the same.
const CONFIRM: Duration = Duration::from_secs(1);
/// Looking takes at most a fifth of the time.
const REST: u32 = 4;
/// Hosts of one workload that are tried one by one; more are a plan's business.
const ONE_BY_ONE: usize = 16;

/// What the operator chooses.
#[derive(Clone, Debug)]
pub struct Choices {
    /// For plans.
    pub settings: Settings,
    /// Between writes.
    pub pace: Pace,
    /// The namespaces that the mode is acted on in; empty: all.
    pub only: BTreeSet<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Agenda {
    choices: Choices,
    given: Given,
    metrics: Metrics,
    pub(super) places: BTreeMap<String, Place>,
    pub(super) plans: Plans,
    pub(super) look_due: BTreeMap<String, Instant>,
    pub(super) step_due: BTreeMap<Name, Instant>,
    /// Workloads that learned something since the graph for the plan under way was taken.
    learned_since: BTreeSet<Workload>,
    pub(super) queue: Queue,
    pub(super) leads: bool,
}

impl Agenda {
    pub(super) fn new(choices: Choices, given: Given, metrics: Metrics) -> Self {
        Self {
            choices,
            given,
            metrics,
            places: BTreeMap::new(),
            plans: Plans::default(),
            look_due: BTreeMap::new(),
            step_due: BTreeMap::new(),
            learned_since: BTreeSet::new(),
            queue: Queue::default(),
            leads: false,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.choices.settings
    }

    /// The mesh has changed.
    pub(super) fn news(&mut self, world: &World, news: &News, now: Instant) {
        let due = now + WINDOW;
        if news.everything {
            let all: BTreeSet<String> = world.namespaces().map(str::to_owned).collect();
            for namespace in all
                .into_iter()
                .chain(self.places.keys().cloned().collect::<Vec<_>>())
            {
                self.plan_at(&namespace, due);
            }
        }
        for namespace in &news.namespaces {
            self.plan_at(namespace, due);
        }
        if !news.ours.is_empty() {
            self.metrics.ours(world.ours());
        }
        for name in &news.ours {
            if let Some(place) = self.places.get_mut(&name.namespace) {
                place.tell_of(world, name, &self.given, now);
                self.look_soon(&name.namespace, now);
            } else {
                self.plan_at(&name.namespace, due);
            }
        }
    }

    /// A namespace is to be planned then at the latest.
    pub(super) fn plan_at(&mut self, namespace: &str, due: Instant) {
        let only = &self.choices.only;
        if only.is_empty() || only.contains(namespace) {
            self.plans.at(namespace, due);
        }
    }

    /// A namespace is looked at after a moment, or after as long as is right for one that takes long.
    fn look_soon(&mut self, namespace: &str, now: Instant) {
        let Some(place) = self.places.get(namespace) else {
            return;
        };
        let after = WINDOW.max(place.look_took * REST);
        if self.leads {
            earlier(&mut self.look_due, namespace.to_owned(), now + after);
        }
    }

    /// A record has changed, or what it says of settling: what it has beyond its Sidecar goes out at once.
    pub(super) fn learned(
        &mut self,
        world: &World,
        workload: &Workload,
        (record, wish): (Option<&Record>, &Wish),
        now: Now,
    ) {
        if self.plans.under_way() {
            self.learned_since.insert(workload.clone());
        }
        let label = world
            .namespace(workload.namespace())
            .and_then(|found| found.labels.get(mode::LABEL)?.parse().ok());
        let own = record.map_or(Some(Mode::Sidecar), |record| record.mode);
        if !self.places.contains_key(workload.namespace())
            && ![own, label].contains(&Some(Mode::Sidecar))
        {
            // What other modes learn is no reason to plan, but for what is to settle.
            match judge(record, wish, self.choices.settings.settle_after, now.wall) {
                Verdict::NotAsked => return,
                Verdict::Waits(at) => {
                    let due = now.tick + at.since(now.wall);
                    return self.plan_at(workload.namespace(), due);
                }
                Verdict::Lacks(_) | Verdict::Settled => {}
            }
        }
        let explained = record.is_some_and(|record| self.grow(world, workload, record, now));
        let due = now.tick + if explained { CONFIRM } else { WINDOW };
        self.plan_at(workload.namespace(), due);
    }

    /// Whether all that a record has beyond the workload's Sidecar was added to it.
    fn grow(&mut self, world: &World, workload: &Workload, record: &Record, now: Now) -> bool {
        let Some(place) = self.places.get_mut(workload.namespace()) else {
            return false;
        };
        let Some(name) = place.of.get(workload).cloned() else {
            return false;
        };
        let Some(spec) = place.desired.sidecars.get(&name) else {
            return false;
        };
        let known: BTreeSet<&str> = spec.hosts.iter().map(|host| host.host.as_str()).collect();
        let edges = record.learned.edges().map(|(host, _, _)| host.as_str());
        let missing: BTreeSet<&str> = edges.filter(|host| !known.contains(host)).collect();
        if missing.is_empty() || missing.len() > ONE_BY_ONE {
            return false;
        }
        let (mut grown, mut all) = (spec.clone(), true);
        for host in missing {
            match grow_by(world, &grown, host, self.choices.settings.max_hosts) {
                Some(more) => grown = more,
                None => all = false,
            }
        }
        if grown == *spec {
            return false;
        }
        place.desired.sidecars.insert(name.clone(), grown);
        if self.leads && world.sidecar(&name).is_some_and(|one| one.ours.is_some()) {
            place
                .growing
                .entry(name.clone())
                .or_insert((now.tick, false));
            self.step(world, &name, now);
        }
        all
    }

    /// The namespaces to plan now. The graph must be taken after this.
    pub(super) fn plans_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.plans.take(now);
        if !due.is_empty() {
            self.learned_since.clear();
        }
        due
    }

    /// A plan is there. What was learned since goes on top of it.
    pub(super) fn planned(
        &mut self,
        world: &World,
        state: &State,
        plans: Vec<(String, Desired)>,
        took: Duration,
        now: Now,
    ) {
        self.plans.done(took, now.tick);
        self.metrics.plan_seconds.observe(took.as_secs_f64());
        self.metrics.plans.inc_by(plans.len() as u64);
        for (namespace, mut desired) in plans {
            if let Some(at) = desired.settles_at.take() {
                self.plan_at(&namespace, now.tick + at.since(now.wall));
            }
            let idle = desired == Desired::default()
                && world
                    .sidecars(&namespace)
                    .all(|(_, one)| one.ours.is_none())
                && world.filters(&namespace).all(|(_, one)| one.ours.is_none())
                && state.saying(&namespace).is_empty();
            let place = self.places.entry(namespace.clone()).or_default();
            place.plan(desired);
            let since = self.learned_since.iter();
            let since: Vec<Workload> = since
                .filter(|workload| workload.namespace() == namespace)
                .cloned()
                .collect();
            for workload in since {
                if let Some(record) = state.view(&workload) {
                    self.grow(world, &workload, &record, now);
                }
            }
            if let Some(place) = self.places.get_mut(&namespace) {
                place.tell(world, &self.given, now.tick);
            }
            if idle {
                self.places.remove(&namespace);
                self.look_due.remove(&namespace);
                self.queue.retain(&namespace, &BTreeSet::new());
            } else if self.leads {
                earlier(&mut self.look_due, namespace, now.tick);
            }
        }
        self.metrics.ours(world.ours());
        self.metrics.settled(self.settled(world));
    }

    /// How many workloads have settled and have their Sidecar.
    fn settled(&self, world: &World) -> usize {
        let there = |name: &Name| world.sidecar(name).is_some_and(|one| one.ours.is_some());
        let of_place = |place: &Place| {
            let settled = place.desired.settled.iter();
            let sidecars = settled.filter_map(|workload| place.of.get(workload));
            sidecars.filter(|name| there(name)).count()
        };
        self.places.values().map(of_place).sum()
    }

    /// A plan came to nothing.
    pub(super) fn plan_failed(&mut self, now: Instant) {
        self.plans.failed(now);
    }

    /// This replica leads, or no longer does.
    pub(super) fn lead(&mut self, leads: bool, now: Instant) {
        if leads == self.leads {
            return;
        }
        self.leads = leads;
        self.metrics.leader.set(i64::from(leads));
        self.queue.clear();
        self.step_due.clear();
        self.look_due.clear();
        for place in self.places.values_mut() {
            place.growing.clear();
            // Others wrote meanwhile: every time counts anew.
            place.memory = Memory::default();
        }
        if leads {
            let names = self.places.keys().cloned();
            self.look_due = names.map(|name| (name, now)).collect();
        }
    }

    /// Looks at what is due; of namespaces at one only.
    pub(super) fn look(&mut self, world: &World, state: &State, now: Now) {
        if !self.leads {
            return;
        }
        for name in take_due(&mut self.step_due, now.tick) {
            self.step(world, &name, now);
        }
        let due = self.look_due.iter().filter(|(_, at)| **at <= now.tick);
        // Those that waited longest come first: none waits for ever.
        let first = due.min_by_key(|(_, at)| **at);
        let Some(namespace) = first.map(|(namespace, _)| namespace.clone()) else {
            return;
        };
        self.look_due.remove(&namespace);
        let begun = Instant::now();
        self.look_at(world, state, &namespace, now);
        if let Some(place) = self.places.get_mut(&namespace) {
            place.look_took = begun.elapsed();
        }
    }

    /// All that is to be done in a namespace. It follows whatever makes or deletes one of ours.
    fn look_at(&mut self, world: &World, state: &State, namespace: &str, now: Now) {
        self.metrics.ours(world.ours());
        self.metrics.settled(self.settled(world));
        let Some(place) = self.places.get_mut(namespace) else {
            return;
        };
        let (pace, memory) = (&self.choices.pace, &mut place.memory);
        let todo = actions::todo(world, namespace, &place.desired, memory, pace, now);
        if let Some(again) = todo.again {
            earlier(&mut self.look_due, namespace.to_owned(), now.tick + again);
        }
        let mut wanted = BTreeSet::new();
        for action in todo.actions {
            wanted.insert(self.put(world, action, now.tick));
        }
        // What cannot be written now may say so; what was refused and is not wanted any more is forgotten first.
        let records = |key: &Key| matches!(key, Key::Record(_));
        let mut kept = wanted.clone();
        kept.extend(self.queue.keys(namespace).filter(|key| records(key)));
        self.queue.retain(namespace, &kept);
        wanted.extend(self.say(world, state, namespace, now.tick));
        self.queue.retain(namespace, &wanted);
        // This look may have come before what failed was due.
        if let Some(at) = self.queue.retry_at(namespace, now.tick) {
            earlier(&mut self.look_due, namespace.to_owned(), at);
        }
    }

    /// Conditions that records do not say as they should.
    fn say(
        &mut self,
        world: &World,
        state: &State,
        namespace: &str,
        now: Instant,
    ) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        let Some(place) = self.places.get(namespace) else {
            return keys;
        };
        if world
            .namespace(namespace)
            .is_none_or(|found| found.terminating)
        {
            return keys;
        }
        let mut all = super::conditions::wanted(world, &place.desired, &self.queue);
        for workload in state.saying(namespace) {
            // Not in this mode any more.
            all.entry(workload).or_default();
        }
        for (workload, wanted) in all {
            let job = match state.said(&workload) {
                Some(said) if said == wanted.said => continue,
                None if !wanted.make => continue,
                _ => Job::Say {
                    said: wanted.said,
                    make: wanted.make,
                },
            };
            let key = Key::Record(workload);
            self.queue.put(&key, job, Urgency::Record, now);
            keys.insert(key);
        }
        keys
    }

    /// The next step of one Sidecar.
    fn step(&mut self, world: &World, name: &Name, now: Now) {
        let Some(place) = self.places.get_mut(&name.namespace) else {
            return;
        };
        let Some(spec) = place.desired.sidecars.get(name) else {
            return;
        };
        let pace = &self.choices.pace;
        let Todo { actions, again } =
            actions::advance(world, name, spec, &mut place.memory, pace, now);
        if let Some(again) = again {
            earlier(&mut self.step_due, name.clone(), now.tick + again);
        }
        for action in actions {
            self.put(world, action, now.tick);
        }
    }

    fn put(&mut self, world: &World, action: Action, now: Instant) -> Key {
        let (key, job, urgency) = match action {
            Action::Apply(kind, name, object) => {
                let growing = |place: &Place| place.growing.contains_key(&name);
                let urgent = self.places.get(&name.namespace).is_some_and(growing);
                let made = made(world, kind, &name).cloned();
                let urgency = if urgent {
                    Urgency::Growth
                } else {
                    Urgency::Object
                };
                let key = Key::Object(kind, name);
                (key, Job::Apply { object, made }, urgency)
            }
            Action::Delete(kind, name, uid) => {
                let key = Key::Object(kind, name);
                (key, Job::Delete { uid }, Urgency::Object)
            }
        };
        self.queue.put(&key, job, urgency, now);
        key
    }

    /// A write is over, and the world shows it.
    pub(super) fn done(
        &mut self,
        world: &World,
        key: &Key,
        job: Job,
        result: Result<(), Fault>,
        now: Now,
    ) {
        let applied = result.is_ok() && matches!(job, Job::Apply { .. });
        let (job, result) = stays_different(world, key, job, result);
        let made_new = matches!(&job, Job::Apply { made: None, .. });
        let failed = result.is_err();
        let retry = self.queue.done(key, job, result, now.tick);
        let namespace = key.namespace().to_owned();
        if let Some(at) = retry
            && self.leads
        {
            earlier(&mut self.look_due, namespace.clone(), at);
        }
        if let Key::Object(kind, name) = key {
            if applied && *kind == Kind::Sidecar {
                self.wrote_sidecar(world, name, now);
            }
            // What comes next, and what records say, may hang on it.
            if !applied || made_new || failed || *kind == Kind::EnvoyFilter {
                self.look_soon(&namespace, now.tick);
            }
        }
    }

    fn wrote_sidecar(&mut self, world: &World, name: &Name, now: Now) {
        let Some(place) = self.places.get_mut(&name.namespace) else {
            return;
        };
        if let Some(stage) = stage(world, name) {
            place.memory.wrote(name, stage, now.tick);
        }
        place.tell_of(world, name, &self.given, now.tick);
        if let Some((since, announced)) = place.growing.get_mut(name) {
            let seconds = now.tick.saturating_duration_since(*since).as_secs_f64();
            if !std::mem::replace(announced, true) {
                self.metrics.came(Come::Announced, seconds);
            }
            if place.gives_all(world, name) {
                self.metrics.came(Come::Given, seconds);
                place.growing.remove(name);
            }
        }
        self.step(world, name, now);
    }

    /// When there may be something to do if nothing happens before.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let look = self.look_due.values().min().copied();
        let step = self.step_due.values().min().copied();
        let acts = [look, step].into_iter().flatten().filter(|_| self.leads);
        self.plans.wakes_at().into_iter().chain(acts).min()
    }
}

/// What a user has added beside our fields stays: it is no reason to write again and again.
fn stays_different(
    world: &World,
    key: &Key,
    job: Job,
    result: Result<(), Fault>,
) -> (Job, Result<(), Fault>) {
    match (key, job, result) {
        (Key::Object(kind, name), Job::Apply { object, .. }, Ok(()))
            if differs(made(world, *kind, name), &object) =>
        {
            let made = made(world, *kind, name).cloned();
            let fault = Fault::Edited("it has fields beside ours".to_owned());
            (Job::Apply { object, made }, Err(fault))
        }
        (_, job, result) => (job, result),
    }
}

fn made<'a>(world: &'a World, kind: Kind, name: &Name) -> Option<&'a Made> {
    match kind {
        Kind::Sidecar => world.sidecar(name)?.ours.as_ref(),
        Kind::EnvoyFilter => world.filter(name)?.ours.as_ref(),
        _ => None,
    }
}

pub(super) fn earlier<K: Ord>(due: &mut BTreeMap<K, Instant>, key: K, at: Instant) {
    let before = due.entry(key).or_insert(at);
    *before = at.min(*before);
}

pub(super) fn take_due<K: Ord + Clone>(due: &mut BTreeMap<K, Instant>, now: Instant) -> Vec<K> {
    let ripe = due.iter().filter(|(_, at)| **at <= now);
    let ripe: Vec<K> = ripe.map(|(key, _)| key.clone()).collect();
    for key in &ripe {
        due.remove(key);
    }
    ripe
}

/// The stage of a Sidecar of ours, as it is there.
pub(super) fn stage(world: &World, name: &Name) -> Option<Stage> {
    made(world, Kind::Sidecar, name).map(|made| Stage::of(&made.spec))
}
