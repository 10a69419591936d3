//! Which replica leads: the holder of a Lease, as Kubernetes' own controllers do it.
//!
//! The clocks of replicas are never compared: a replica waits for as long as a lease holds from when *it* saw the lease
//! change last. Each write carries the resource version that was read, so that of two that take a lease one fails. A
//! leader that cannot renew stops to lead before anybody else may begin.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// The name of the Lease.
pub const NAME: &str = "lazymesh-controller";
/// How long a lease holds for those who do not hold it.
const DURATION: Duration = Duration::from_secs(15);
/// How long its holder counts on it after it began to renew it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const RETRY: Duration = Duration::from_secs(2);
/// How long one call to Kubernetes may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this replica leads. Clones share it.
#[derive(Clone, Debug)]
pub struct Leading(Arc<watch::Sender<Option<Instant>>>);

impl Default for Leading {
    fn default() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }
}

impl Leading {
    /// Where there are no others: for good, as far as a process lives.
    #[must_use]
    pub fn alone() -> Self {
        let leading = Self::default();
        leading.until(Some(
            Instant::now() + Duration::from_secs(10 * 365 * 24 * 3600),
        ));
        leading
    }

    /// Whether it leads now.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Tells of every change, renewals among them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Instant>> {
        self.0.subscribe()
    }

    fn until(&self, until: Option<Instant>) {
        self.0.send_replace(until);
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Said {
    holder: String,
    duration: Duration,
    transitions: i32,
    /// Changes with every write of it.
    version: String,
}

/// What this replica saw of the Lease, on its own clock.
#[derive(Debug, Default)]
struct Seen {
    last: Option<(Said, Instant)>,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It is ours: say that it still is.
    Renew,
    /// It is nobody's, or its holder has not renewed it: take it.
    Take,
    /// It is another's.
    Wait,
}

impl Seen {
    fn decide(&mut self, said: &Said, me: &str, now: Instant) -> Step {
        let since = match &self.last {
            Some((before, since)) if before == said => *since,
            _ => now,
        };
        self.last = Some((said.clone(), since));
        if said.holder == me {
            Step::Renew
        } else if said.holder.is_empty() || now.duration_since(since) > said.duration {
            Step::Take
        } else {
            Step::Wait
        }
    }
}

/// One replica that runs for the Lease.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    me: String,
    leading: Leading,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// Runs for the Lease in this namespace. `host`: what people know the replica by.
    #[must_use]
    pub fn new(client: Client, namespace: &str, host: &str) -> Self {
        // Two processes of one host are two replicas.
        let random = RandomState::new().hash_one(host);
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            me: format!("{host}_{random:016x}"),
            leading: Leading::default(),
        }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leading(&self) -> Leading {
        self.leading.clone()
    }

    /// Runs for the Lease until `done`, then gives it back. What fails is tried again.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, done: impl Future<Output = ()>) -> Result<(), Infallible> {
        tokio::select! {
            () = self.keep_on() => {}
            () = done => {}
        }
        self.give_back().await;
        Ok(())
    }

    async fn keep_on(&self) {
        let mut seen = Seen::default();
        loop {
            let begun = Instant::now();
            let led = self.leading.now();
            match timeout(PATIENCE, self.turn(&mut seen)).await {
                Ok(Ok(true)) => {
                    if !led {
                        info!(me = self.me, "leads: writes Sidecars and EnvoyFilters");
                    }
                    self.leading.until(Some(begun + DEADLINE));
                }
                Ok(Ok(false)) => self.follows("another replica holds the Lease"),
                Ok(Err(error)) => {
                    let namespace = &self.namespace;
                    warn!(namespace, name = NAME, %error, "the Lease; trying again (hint: may the controller write it?)");
                    self.expire();
                }
                Err(_) => {
                    warn!("the Lease: Kubernetes took longer than {PATIENCE:?}");
                    self.expire();
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Looks at the Lease once; says whether it is ours after that.
    async fn turn(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let new = self.lease(None, 0);
            let made = self.api.create(&PostParams::default(), &new).await;
            return won(made);
        };
        let (said, params) = (read(&lease), PostParams::default());
        match seen.decide(&said, &self.me, Instant::now()) {
            Step::Wait => Ok(false),
            Step::Renew => {
                let renewed = self.lease(Some(&lease), said.transitions);
                won(self.api.replace(NAME, &params, &renewed).await)
            }
            Step::Take => {
                let taken = self.lease(Some(&lease), said.transitions.saturating_add(1));
                won(self.api.replace(NAME, &params, &taken).await)
            }
        }
    }

    /// The Lease as ours, in place of this one.
    fn lease(&self, before: Option<&Lease>, transitions: i32) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let spec = before
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let was_ours = spec.holder_identity.as_deref() == Some(&self.me);
        let acquired = spec.acquire_time.clone().filter(|_| was_ours);
        Lease {
            metadata: before.map_or_else(
                || ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: acquired.or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..spec
            }),
        }
    }

    fn follows(&self, why: &str) {
        if self.leading.0.borrow().is_some() {
            warn!(me = self.me, "no longer leads: {why}");
            self.leading.until(None);
        }
    }

    fn expire(&self) {
        if !self.leading.now() {
            self.follows("its Lease could not be renewed in time");
        }
    }

    /// So that the next one need not wait.
    async fn give_back(&self) {
        let led = self.leading.0.borrow().is_some();
        self.leading.until(None);
        if !led {
            return;
        }
        let give = async {
            let Some(mut lease) = self.api.get_opt(NAME).await? else {
                return Ok(());
            };
            let Some(spec) = &mut lease.spec else {
                return Ok(());
            };
            if spec.holder_identity.as_deref() == Some(&self.me) {
                spec.holder_identity = Some(String::new());
                self.api
                    .replace(NAME, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Ok(Err(error)) = timeout(PATIENCE, give).await {
            warn!(%error, "the Lease is not given back; another replica takes it when it runs out");
        }
    }
}

/// A write that met another's is one that was lost.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn read(lease: &Lease) -> Said {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Said {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
