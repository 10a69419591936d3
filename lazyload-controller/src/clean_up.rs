//! The command `clean-up`: takes away what the mode `sidecar` wrote, where no controller does it any more.
//!
//! In the order of an opt-out: Sidecars, then a while for the proxies to have their whole config again, then the
//! EnvoyFilters, so that no pod is without both a service and its fallback. What comes next is a pure function of what is
//! found; the command looks, does it, and looks again until nothing is left.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use thiserror::Error;

use crate::app;
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::{Cluster, Fault};
use crate::config::{duration, positive};
use crate::mesh::{Kind, Name};

/// How long between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Deletes under way at once.
const DELETES: usize = 16;

/// Flags of the command.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How to reach Kubernetes; without it the pod's own service account, or ~/.kube/config
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How long EnvoyFilters outlive the last Sidecar
    #[arg(long, env = "LAZYMESH_FALLBACK_LINGERS", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub fallback_lingers: Duration,
    /// For how long it is tried, beside that
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = positive)]
    pub timeout: Duration,
}

/// Why something is left.
#[derive(Debug, Error)]
pub enum Error {
    /// Kubernetes cannot be used.
    #[error(transparent)]
    Unreachable(#[from] app::Error),
    /// Somebody makes anew what is deleted.
    #[error(
        "{0} {1} was deleted and is there again (hint: a controller runs; scale lazyload-controller to 0 first)"
    )]
    Rewritten(Kind, Name),
    /// Not everything could be deleted in time.
    #[error("something may be left: {0} (hint: run it again)")]
    Left(String),
}

/// What is there of ours: names and uids.
#[derive(Clone, Debug, Default, PartialEq)]
struct Found {
    sidecars: BTreeMap<Name, String>,
    filters: BTreeMap<Name, String>,
}

/// What comes next.
#[derive(Debug, PartialEq)]
enum Step {
    Delete(Kind, BTreeMap<Name, String>),
    Wait(Duration),
    Over,
}

/// What was seen and done.
#[derive(Debug, Default)]
struct CleanUp {
    /// Since when there is no Sidecar.
    without_sidecars: Option<Instant>,
    /// What was deleted, with its uid.
    deleted: BTreeMap<(Kind, Name), String>,
}

impl CleanUp {
    fn next(&mut self, found: &Found, linger: Duration, now: Instant) -> Result<Step, Error> {
        let of = |kind, all| std::iter::repeat(kind).zip(all);
        for (kind, (name, uid)) in
            of(Kind::Sidecar, &found.sidecars).chain(of(Kind::EnvoyFilter, &found.filters))
        {
            let before = self.deleted.get(&(kind, name.clone()));
            if before.is_some_and(|before| before != uid) {
                return Err(Error::Rewritten(kind, name.clone()));
            }
        }
        if !found.sidecars.is_empty() {
            self.without_sidecars = None;
            return Ok(Step::Delete(Kind::Sidecar, found.sidecars.clone()));
        }
        let since = *self.without_sidecars.get_or_insert(now);
        if found.filters.is_empty() {
            return Ok(Step::Over);
        }
        let left = linger.saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() {
            Ok(Step::Delete(Kind::EnvoyFilter, found.filters.clone()))
        } else {
            Ok(Step::Wait(left))
        }
    }
}

/// Takes everything away, in all namespaces, and says what it does, a line at a time.
///
/// # Errors
/// When something is left.
pub async fn run(args: &Args, mut say: impl FnMut(&str)) -> Result<(), Error> {
    let client = app::client(args.kubeconfig.as_deref()).await?;
    let cluster = Kubernetes::new(client, Name::default());
    let until = Instant::now() + args.fallback_lingers + args.timeout;
    let (mut clean_up, mut said) = (CleanUp::default(), BTreeSet::new());
    let mut say_once = |line: String| {
        if !said.contains(&line) {
            say(&line);
            said.insert(line);
        }
    };
    loop {
        let mut trouble = "it takes too long".to_owned();
        let mut pause = LOOK_AGAIN;
        match find(&cluster).await {
            Ok(found) => match clean_up.next(&found, args.fallback_lingers, Instant::now())? {
                Step::Delete(kind, objects) => {
                    for (name, uid, result) in delete(&cluster, kind, objects).await {
                        match result {
                            Ok(()) => {
                                say_once(format!("{kind} {name}: deleted"));
                                clean_up.deleted.insert((kind, name), uid);
                            }
                            Err(fault) => {
                                trouble = format!("{kind} {name}: {fault}");
                                say_once(trouble.clone());
                            }
                        }
                    }
                }
                Step::Wait(left) => {
                    say_once("no Sidecar is left: waiting until proxies have all of it".to_owned());
                    pause = pause.min(left);
                }
                Step::Over => {
                    say_once("nothing is left".to_owned());
                    return Ok(());
                }
            },
            Err(fault) => {
                trouble = fault.to_string();
                say_once(trouble.clone());
            }
        }
        if Instant::now() >= until {
            return Err(Error::Left(trouble));
        }
        tokio::time::sleep(pause).await;
    }
}

async fn find(cluster: &Kubernetes) -> Result<Found, Fault> {
    Ok(Found {
        sidecars: cluster.ours(Kind::Sidecar).await?,
        filters: cluster.ours(Kind::EnvoyFilter).await?,
    })
}

async fn delete(
    cluster: &Kubernetes,
    kind: Kind,
    objects: BTreeMap<Name, String>,
) -> Vec<(Name, String, Result<(), Fault>)> {
    let deletes = objects.into_iter().map(|(name, uid)| async move {
        let result = cluster.delete(kind, &name, &uid).await;
        (name, uid, result)
    });
    stream::iter(deletes)
        .buffer_unordered(DELETES)
        .collect()
        .await
}
