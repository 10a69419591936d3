//! The warm start: what a namespace called before it was opted in is learned before its sidecars are trimmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dependency_graph::{Mode, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::History;
use crate::plan::modes;

/// How long anyone waits. Config that comes without the past is only slower at first.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a namespace was opted in for which nobody waits.
const PERIOD: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// The modes that begin with what is known.
const TRIMMED: [Mode; 2] = [Mode::Sidecar, Mode::OnDemand];

/// How warm a namespace is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Warm {
    /// What Prometheus knows of its past is learned and stored.
    Learned,
    /// There is nobody to ask.
    NobodyToAsk,
    /// Prometheus did not answer; it is asked again, and what it tells then is learned as any call is.
    Failed,
    /// It takes too long; it goes on, and what it tells is learned as any call is.
    TooLong,
}

/// Lets others wait for the warm start of a namespace. Clones share it.
#[derive(Clone, Debug)]
pub struct WarmStart {
    able: bool,
    wanted: Arc<Mutex<BTreeSet<String>>>,
    news: Arc<Notify>,
    done: Arc<watch::Sender<BTreeMap<String, Warm>>>,
}

impl WarmStart {
    pub(super) fn new(able: bool) -> Self {
        Self {
            able,
            wanted: Arc::default(),
            news: Arc::default(),
            done: Arc::new(watch::channel(BTreeMap::new()).0),
        }
    }

    /// Whether there is a past to ask for.
    #[must_use]
    pub fn is_able(&self) -> bool {
        self.able
    }

    /// Returns once the past of a namespace is learned, or cannot be, within half a minute at the most. It is learned
    /// once for as long as the namespace is opted in and this process lives, and only by the replica that leads.
    pub async fn warmed(&self, namespace: &str) -> Warm {
        if !self.able {
            return Warm::NobodyToAsk;
        }
        let mut done = self.done.subscribe();
        self.want(namespace);
        let answer = done.wait_for(|done| done.contains_key(namespace));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(done)) => done.get(namespace).copied().unwrap_or(Warm::Failed),
            // The sender lives in self.
            Ok(Err(_)) => Warm::Failed,
            Err(_) => Warm::TooLong,
        }
    }

    fn want(&self, namespace: &str) {
        if !self.done.borrow().contains_key(namespace) {
            self.wanted.lock().insert(namespace.to_owned());
            self.news.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.wanted.lock())
    }

    fn say(&self, namespace: &str, warm: Warm) {
        self.done.send_modify(|done| {
            done.insert(namespace.to_owned(), warm);
        });
    }

    /// Forgets namespaces that were opted in and are not any more: they may be again.
    fn forget<'a>(&self, gone: impl Iterator<Item = &'a String>) {
        let gone: Vec<&String> = gone.collect();
        self.done.send_if_modified(|done| {
            let removed = gone
                .iter()
                .filter(|namespace| done.remove(**namespace).is_some());
            removed.count() > 0
        });
    }
}

impl History {
    /// Warms the namespaces for which someone waits, and those that are opted in and have learned nothing yet.
    pub(super) async fn warm_namespaces(&self) {
        if !self.warm.able {
            return std::future::pending().await;
        }
        let (mut next_look, mut next_try) = (Instant::now(), Instant::now());
        let mut opted_in = BTreeSet::new();
        loop {
            self.leading().await;
            tokio::select! {
                () = self.warm.news.notified() => {}
                () = sleep_until(next_look) => {
                    next_look = Instant::now() + PERIOD;
                    self.want_new(&mut opted_in, next_try <= Instant::now());
                }
            }
            for namespace in self.warm.take() {
                if !self.warm_one(&namespace, SystemTime::now().into()).await {
                    next_try = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Wants those that nobody asked for: opted in, and nothing learned of any workload. `before`: those opted in when it
    /// was last looked. `again`: also those that failed.
    fn want_new(&self, before: &mut BTreeSet<String>, again: bool) {
        if self.is_paused() {
            return;
        }
        let graph = self.parts.state.graph();
        let opted_in: BTreeSet<String> = graph
            .namespaces()
            .filter(|(_, says)| says.mode.is_some_and(|mode| TRIMMED.contains(&mode)))
            .map(|(name, _)| name.to_owned())
            .collect();
        self.warm.forget(before.difference(&opted_in));
        let learned: BTreeSet<&str> = graph
            .workloads()
            .filter(|(_, record)| !record.learned.is_empty())
            .map(|(workload, _)| workload.namespace())
            .collect();
        let done = self.warm.done.borrow().clone();
        for namespace in &opted_in {
            match done.get(namespace) {
                None if !learned.contains(namespace.as_str()) => self.warm.want(namespace),
                Some(Warm::Failed) if again => {
                    self.warm.wanted.lock().insert(namespace.clone());
                }
                _ => {}
            }
        }
        *before = opted_in;
    }

    /// While all is paused every mode is off, and nothing would be learned: it is looked at again after that.
    fn is_paused(&self) -> bool {
        *self.parts.state.paused().borrow()
    }

    /// Says whether it succeeded.
    async fn warm_one(&self, namespace: &str, now: Timestamp) -> bool {
        if self.is_paused() {
            return true;
        }
        let modes = match &self.parts.world {
            Some(world) => modes(&world.read(), &self.parts.state.graph(), namespace),
            None => BTreeMap::new(),
        };
        let window = self.parts.args.history;
        let learned = self.learn(namespace, &modes, &TRIMMED, window, now).await;
        match learned {
            Ok(new) => {
                info!(namespace, new, "its past is learned");
                self.warm.say(namespace, Warm::Learned);
                true
            }
            Err(error) => {
                warn!(namespace, %error, "its past is not learned; trying again");
                self.warm.say(namespace, Warm::Failed);
                false
            }
        }
    }
}
