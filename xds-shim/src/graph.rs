//! What the shim knows from the controller: modes, and what each workload uses.
//!
//! [`View`] is the pure part: updates in, affected workloads out. [`Graph`] lets each stream follow
//! its own workload, so that news of one wakes no other.

use crate::cluster::ServicePort;
use crate::treatment::KnownModes;
use dependency_graph::{Mode, Workload, api};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

/// How many services learned here and not yet confirmed by the controller are remembered: of all
/// workloads, and of one, so that none takes all the room.
const MOST_LOCAL: usize = 100_000;
const MOST_LOCAL_OF_ONE: usize = 1000;

/// What is known about one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its modes.
    pub modes: KnownModes,
    /// What it uses.
    pub services: Arc<BTreeSet<ServicePort>>,
}

/// What the controller said of one workload.
#[derive(Debug, Clone, Default)]
struct Record {
    mode: Option<Mode>,
    services: BTreeSet<ServicePort>,
}

impl Record {
    /// Whether it names a service; port 0 stands for every port.
    fn has(&self, service: &ServicePort) -> bool {
        let every = ServicePort::new(&service.host, 0);
        self.services.contains(service) || self.services.contains(&every)
    }
}

/// The state of the graph as the controller gave it, and what was learned here meanwhile.
#[derive(Debug, Default)]
pub struct View {
    heard: bool,
    paused: bool,
    namespaces: HashMap<String, Mode>,
    workloads: HashMap<Workload, Record>,
    /// A state that is still coming in, after a new watch began.
    coming: Option<Box<View>>,
    local: HashMap<Workload, BTreeSet<ServicePort>>,
    local_count: usize,
}

impl View {
    /// A new watch begins: what comes until the state is complete replaces what is known.
    pub fn begin(&mut self) {
        // A controller that does not know of pauses does not end one.
        self.coming = Some(Box::new(Self {
            paused: self.paused,
            ..Self::default()
        }));
    }

    /// Takes in an update. Entries that are not valid are skipped and named.
    pub fn apply(&mut self, update: api::WatchResponse) -> Vec<String> {
        let complete = update.snapshot_complete;
        let target = self.coming.as_deref_mut();
        let skipped = match target {
            Some(coming) => coming.take_in(update),
            None => self.take_in(update),
        };
        if complete && let Some(coming) = self.coming.take() {
            self.namespaces = coming.namespaces;
            self.workloads = coming.workloads;
            self.paused = coming.paused;
            self.heard = true;
        }
        self.forget_confirmed();
        skipped
    }

    fn take_in(&mut self, update: api::WatchResponse) -> Vec<String> {
        let mut skipped = Vec::new();
        self.paused = update.paused.unwrap_or(self.paused);
        for namespace in update.namespaces {
            match mode(namespace.mode()) {
                Some(mode) => self.namespaces.insert(namespace.namespace, mode),
                None => self.namespaces.remove(&namespace.namespace),
            };
        }
        for state in update.workloads {
            let own = state.mode();
            match state.workload.map(Workload::try_from) {
                Some(Ok(workload)) => {
                    let services = state.dependencies.iter().filter_map(|d| {
                        let port = u16::try_from(d.port).ok();
                        port.map(|port| ServicePort::new(&d.host, port))
                    });
                    let record = Record {
                        mode: mode(own),
                        services: services.collect(),
                    };
                    self.workloads.insert(workload, record);
                }
                other => skipped.push(format!("{other:?}")),
            }
        }
        for workload in update
            .removed
            .into_iter()
            .filter_map(|w| Workload::try_from(w).ok())
        {
            self.workloads.remove(&workload);
        }
        skipped
    }

    /// Remembers what was learned here, until the controller confirms it. Whether it is new.
    pub fn learned(&mut self, workload: &Workload, service: &ServicePort) -> bool {
        let record = self.workloads.get(workload);
        if record.is_some_and(|r| r.has(service)) || self.local_count >= MOST_LOCAL {
            return false;
        }
        let local = self.local.entry(workload.clone()).or_default();
        let new = local.len() < MOST_LOCAL_OF_ONE && local.insert(service.clone());
        self.local_count += usize::from(new);
        new
    }

    fn forget_confirmed(&mut self) {
        self.local.retain(|workload, services| {
            if let Some(record) = self.workloads.get(workload) {
                services.retain(|s| !record.has(s));
            }
            !services.is_empty()
        });
        self.local_count = self.local.values().map(BTreeSet::len).sum();
    }

    /// What is known about a workload now.
    pub fn known(&self, workload: &Workload) -> Known {
        let record = self.workloads.get(workload);
        let local = self.local.get(workload);
        let services = record
            .map(|r| &r.services)
            .into_iter()
            .chain(local)
            .flatten();
        Known {
            modes: self.modes(Some(workload), workload.namespace()),
            services: Arc::new(services.cloned().collect()),
        }
    }

    /// The modes of a workload, or of a proxy whose workload cannot be told.
    pub fn modes(&self, workload: Option<&Workload>, namespace: &str) -> KnownModes {
        KnownModes {
            workload: workload.and_then(|w| self.workloads.get(w)?.mode),
            namespace: self.namespaces.get(namespace).copied(),
            heard: self.heard,
            paused: self.paused,
        }
    }
}

fn mode(mode: api::Mode) -> Option<Mode> {
    match mode {
        api::Mode::Unspecified => None,
        api::Mode::Off => Some(Mode::Off),
        api::Mode::OnDemand => Some(Mode::OnDemand),
        api::Mode::Sidecar => Some(Mode::Sidecar),
        api::Mode::Observe => Some(Mode::Observe),
    }
}

/// A view that streams follow.
#[derive(Debug, Clone, Default)]
pub struct Graph(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    view: View,
    followers: HashMap<Workload, watch::Sender<Known>>,
    heard: watch::Sender<bool>,
}

impl Graph {
    /// See [`View::begin`].
    pub fn begin(&self) {
        self.0.lock().view.begin();
    }

    /// See [`View::apply`]. Tells the streams whom it concerns.
    pub fn apply(&self, update: api::WatchResponse) -> Vec<String> {
        let mut shared = self.0.lock();
        let concerns = Concerns::of(&shared.view, &update);
        let skipped = shared.view.apply(update);
        shared.tell_all(&concerns);
        let heard = shared.view.heard;
        shared
            .heard
            .send_if_modified(|before| !std::mem::replace(before, heard) && heard);
        skipped
    }

    /// See [`View::learned`]. Tells the other streams of the workload.
    pub fn learned(&self, workload: &Workload, service: &ServicePort) -> bool {
        let mut shared = self.0.lock();
        let new = shared.view.learned(workload, service);
        if new {
            shared.tell(workload);
        }
        new
    }

    /// What is known about a workload, now and from now on.
    pub fn follow(&self, workload: &Workload) -> watch::Receiver<Known> {
        let mut shared = self.0.lock();
        let known = shared.view.known(workload);
        let sender = shared.followers.entry(workload.clone());
        let sender = sender.or_insert_with(|| watch::Sender::new(known));
        sender.subscribe()
    }

    /// See [`View::modes`].
    pub fn modes(&self, workload: Option<&Workload>, namespace: &str) -> KnownModes {
        self.0.lock().view.modes(workload, namespace)
    }

    /// Whether the controller has been heard.
    pub fn is_heard(&self) -> bool {
        self.0.lock().view.heard
    }

    /// Returns once the controller has been heard.
    pub async fn heard(&self) {
        let mut heard = self.0.lock().heard.subscribe();
        // The sender lives in self: an error cannot come.
        let _ = heard.wait_for(|heard| *heard).await;
    }

    /// All that is known, for the eyes of an operator.
    pub fn dump(&self) -> BTreeMap<String, Vec<String>> {
        let shared = self.0.lock();
        let workloads: HashSet<_> = shared
            .view
            .workloads
            .keys()
            .chain(shared.view.local.keys())
            .collect();
        let list = |w: &Workload| {
            shared
                .view
                .known(w)
                .services
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        workloads
            .into_iter()
            .map(|w| (w.to_string(), list(w)))
            .collect()
    }
}

impl Shared {
    fn tell(&mut self, workload: &Workload) {
        let known = self.view.known(workload);
        if let Some(sender) = self.followers.get(workload) {
            sender.send_if_modified(|before| {
                let changed = *before != known;
                *before = known;
                changed
            });
        }
    }

    /// Also forgets followers that are gone, so that their number stays that of live workloads.
    fn tell_all(&mut self, concerns: &Concerns) {
        self.followers
            .retain(|_, sender| sender.receiver_count() > 0);
        let followed = self.followers.keys().filter(|w| concerns.has(w));
        for workload in followed.cloned().collect::<Vec<_>>() {
            self.tell(&workload);
        }
    }
}

/// Whom an update concerns.
enum Concerns {
    /// A part of a state that is not complete yet.
    Nobody,
    Everybody,
    These {
        workloads: HashSet<Workload>,
        namespaces: HashSet<String>,
    },
}

impl Concerns {
    fn of(view: &View, update: &api::WatchResponse) -> Self {
        match (&view.coming, update.snapshot_complete) {
            (Some(_), false) => Self::Nobody,
            (_, true) => Self::Everybody,
            (None, false) if update.paused.is_some() => Self::Everybody,
            (None, false) => {
                let states = update.workloads.iter().filter_map(|s| s.workload.clone());
                let named = states.chain(update.removed.iter().cloned());
                Self::These {
                    workloads: named.filter_map(|w| w.try_into().ok()).collect(),
                    namespaces: update
                        .namespaces
                        .iter()
                        .map(|n| n.namespace.clone())
                        .collect(),
                }
            }
        }
    }

    fn has(&self, workload: &Workload) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::These {
                workloads,
                namespaces,
            } => workloads.contains(workload) || namespaces.contains(workload.namespace()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cart() -> Workload {
        Workload::new("shop", "Deployment", "cart").unwrap()
    }

    fn service(host: &str) -> ServicePort {
        ServicePort::new(host, 80)
    }

    fn state(hosts: &[&str]) -> api::WorkloadState {
        let dependency = |host: &&str| api::Dependency {
            host: (*host).into(),
            port: 80,
            protocol: api::Protocol::Http as i32,
        };
        api::WorkloadState {
            workload: Some((&cart()).into()),
            mode: api::Mode::Unspecified as i32,
            dependencies: hosts.iter().map(dependency).collect(),
        }
    }

    fn update(states: Vec<api::WorkloadState>, complete: bool) -> api::WatchResponse {
        api::WatchResponse {
            workloads: states,
            snapshot_complete: complete,
            ..Default::default()
        }
    }

    fn labelled(mode: api::Mode) -> api::WatchResponse {
        let namespace = api::NamespaceMode {
            namespace: "shop".into(),
            mode: mode as i32,
            ..Default::default()
        };
        api::WatchResponse {
            namespaces: vec![namespace],
            ..Default::default()
        }
    }

    #[test]
    fn a_state_replaces_what_was_known_only_when_it_is_complete() {
        let mut view = View::default();
        view.begin();
        view.apply(update(vec![state(&["a"])], true));
        view.begin();
        view.apply(update(vec![state(&["b"])], false));
        assert!(view.known(&cart()).services.contains(&service("a")));
        view.apply(update(vec![], true));
        assert_eq!(
            view.known(&cart()).services.iter().collect::<Vec<_>>(),
            [&service("b")]
        );
    }

    #[test]
    fn labels_come_and_go() {
        let mut view = View::default();
        assert_eq!(view.modes(None, "shop"), KnownModes::default());
        view.begin();
        view.apply(api::WatchResponse {
            snapshot_complete: true,
            ..labelled(api::Mode::OnDemand)
        });
        assert_eq!(
            view.modes(Some(&cart()), "shop").namespace,
            Some(Mode::OnDemand)
        );
        assert!(view.modes(None, "shop").heard);
        view.apply(labelled(api::Mode::Unspecified));
        assert_eq!(view.modes(None, "shop").namespace, None);
    }

    #[test]
    fn a_pause_holds_until_its_end_is_said_and_concerns_everybody() {
        let graph = Graph::default();
        let mut known = graph.follow(&cart());
        let say = |paused| {
            graph.apply(api::WatchResponse {
                paused,
                ..api::WatchResponse::default()
            })
        };
        graph.begin();
        graph.apply(update(vec![state(&["a"])], true));
        assert!(known.has_changed().unwrap() && !known.borrow_and_update().modes.paused);
        say(Some(true));
        assert!(known.has_changed().unwrap() && known.borrow_and_update().modes.paused);
        say(None);
        graph.begin();
        assert!(
            graph.modes(None, "shop").paused,
            "a state that is not complete says nothing"
        );
        graph.apply(api::WatchResponse {
            paused: Some(true),
            ..update(vec![], true)
        });
        assert!(graph.modes(None, "shop").paused);
        say(Some(false));
        assert!(!graph.modes(None, "shop").paused);
    }

    #[test]
    fn what_is_learned_here_counts_until_it_is_confirmed() {
        let mut view = View::default();
        assert!(view.learned(&cart(), &service("a")));
        assert!(!view.learned(&cart(), &service("a")));
        assert_eq!(view.known(&cart()).services.len(), 1);
        view.begin();
        view.apply(update(vec![state(&["a"])], true));
        assert!(view.local.is_empty() && view.local_count == 0);
        // Confirmed and forgotten again: gone.
        view.apply(update(vec![state(&[])], false));
        assert!(view.known(&cart()).services.is_empty());
    }

    #[test]
    fn streams_hear_of_their_own_workload_only() {
        let graph = Graph::default();
        let mut mine = graph.follow(&cart());
        let other = Workload::new("shop", "Deployment", "other").unwrap();
        let mut theirs = graph.follow(&other);
        mine.borrow_and_update();
        theirs.borrow_and_update();
        graph.learned(&cart(), &service("a"));
        assert!(mine.has_changed().unwrap() && !theirs.has_changed().unwrap());
        drop(theirs);
        graph.apply(update(vec![], false));
        assert_eq!(graph.0.lock().followers.len(), 1);
    }
}
