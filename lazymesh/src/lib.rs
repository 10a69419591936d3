//! The command `lazymesh`: looks at Lazymesh in a cluster, and tells it what it should know.
//!
//! [`cluster`] and [`shims`] read what there is into a [`snapshot::Snapshot`]; [`status`], [`graph`], [`why`] and [`check`] are
//! functions of that; [`change`] says what a record becomes.

pub mod args;
pub mod change;
pub mod check;
pub mod cluster;
pub mod graph;
pub mod name;
pub mod shims;
pub mod snapshot;
pub mod status;
pub mod table;
pub mod view;
pub mod why;

#[cfg(test)]
mod fixture;

use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::CommandFactory;
use dependency_graph::{Timestamp, Workload};

use args::{Cli, Command, Format};
use cluster::Cluster;
use name::Called;
use snapshot::Snapshot;

/// What is to be printed, and the process's exit code.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Goes to standard output.
    pub text: String,
    /// See `lazymesh --help`.
    pub code: u8,
}

/// The exit code when `check` found something.
const FOUND: u8 = 3;
const PAUSED: &str = "labelled: shims and Sidecars follow, if a controller runs (`lazymesh check` says); sidecars grow to their whole config";
const RESUMED: &str = "the label is off: behind a shim, pods that run keep what they have until they restart; in mode sidecar, and where it has settled, they are trimmed at once";

/// Does what the command line says.
///
/// # Errors
/// When Kubernetes or a shim cannot be asked, or the command line names what is not there.
pub async fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    if let Command::Completions { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "lazymesh", &mut script);
        return Ok(told(String::from_utf8(script)?));
    }
    let of_graph = matches!(cli.output, Format::Dot | Format::Mermaid);
    if of_graph && !matches!(cli.command, Command::Graph) {
        bail!("-o dot and -o mermaid are of `lazymesh graph`; here there are table and json");
    }
    let cluster = Cluster::connect(cli).await?;
    match &cli.command {
        Command::Status => {
            let snapshot = look(cli, &cluster).await?;
            let text = status::show(&status::rows(&snapshot), cli.output, now())?;
            let paused = snapshot.is_paused() && cli.output == Format::Table;
            let head = if paused {
                "PAUSED: all is in mode off (`lazymesh resume` ends that)\n"
            } else {
                ""
            };
            Ok(told(head.to_owned() + &text))
        }
        Command::Graph => {
            let snapshot = look(cli, &cluster).await?;
            graph::show(&graph::edges(&snapshot), cli.output).map(told)
        }
        Command::Why {
            source,
            destination,
        } => {
            let source = workload(&cluster, source)?;
            let called: Called = destination.parse()?;
            let snapshot = look(cli, &cluster).await?;
            let services = cluster.services(&called, source.namespace()).await?;
            let host = called.host(source.namespace(), &cli.cluster_domain, &services);
            let port = called.ports.first().copied();
            let answer = why::explain(&snapshot, &source, &host, port, !services.is_empty());
            why::show(&answer, cli.output).map(told)
        }
        Command::Check => {
            let mut snapshot = cluster.everything(cli.namespace.as_deref()).await?;
            shims::look(&mut snapshot, &cli.shims).await?;
            let findings = check::findings(&snapshot, now());
            let code = if findings.is_empty() { 0 } else { FOUND };
            let text = check::show(&findings, cli.output)?;
            Ok(Outcome { text, code })
        }
        Command::Pause => {
            let done = cluster.pause(true).await?;
            Ok(said(done, PAUSED))
        }
        Command::Resume => {
            let done = cluster.pause(false).await?;
            Ok(said(done, RESUMED))
        }
        Command::Pin {
            workload: who,
            host,
        } => {
            let (who, host) = (workload(&cluster, who)?, pinned(&cluster, cli, host).await?);
            let edit = |spec: &mut _| change::pin(spec, &host);
            let done = cluster.edit_spec(&who, true, edit).await?;
            Ok(said(done, &format!("{host}: pinned for {who}")))
        }
        Command::Unpin {
            workload: who,
            host,
        } => {
            let (who, called) = (workload(&cluster, who)?, host.parse::<Called>()?);
            let hosts = called.readings(&cluster.namespace, &cli.cluster_domain);
            let edit = |spec: &mut _| change::unpin(spec, &hosts, &called.ports);
            let done = cluster.edit_spec(&who, false, edit).await?;
            Ok(said(done, &format!("{host}: no longer pinned for {who}")))
        }
        Command::Forget {
            workload: who,
            host,
        } => {
            let who = workload(&cluster, who)?;
            let hosts = match host {
                Some(host) => {
                    let called: Called = host.parse()?;
                    Some(called.readings(&cluster.namespace, &cli.cluster_domain))
                }
                None => None,
            };
            // Calls of that second are blocked with those before it: one that is made right after this is to count.
            let before = Timestamp::from_seconds(now().seconds().saturating_sub(1));
            let edit = |status: &mut _| change::forget(status, hosts.as_deref(), before);
            let done = cluster.edit_status(&who, edit).await?;
            let what = host.as_deref().unwrap_or("all that was learned");
            let text = "forgotten; new pods start without it, unless it is pinned";
            Ok(said(done, &format!("{what}: {text}")))
        }
        Command::Completions { .. } => Ok(Outcome::default()),
    }
}

async fn look(cli: &Cli, cluster: &Cluster) -> anyhow::Result<Snapshot> {
    let namespace = (!cli.all_namespaces).then(|| cluster.namespace.clone());
    let mut snapshot = cluster.snapshot(namespace.as_deref()).await?;
    shims::look(&mut snapshot, &cli.shims).await?;
    Ok(snapshot)
}

fn workload(cluster: &Cluster, text: &str) -> anyhow::Result<Workload> {
    name::workload(&cluster.namespace, text).with_context(|| {
        format!("{text:?} names no workload (hint: NAME, or KIND/NAME such as StatefulSet/db)")
    })
}

/// The host that a person names, as istiod does.
async fn pinned(cluster: &Cluster, cli: &Cli, text: &str) -> anyhow::Result<change::Pin> {
    let called: Called = text.parse()?;
    let services = cluster.services(&called, &cluster.namespace).await?;
    if services.is_empty() && called.name.split('.').count() == 2 {
        bail!(
            "{text:?} is no Service, and may be a host outside the mesh (hint: for a Service that is to come write its full name, NAME.NAMESPACE.svc)"
        );
    }
    let host = called.host(&cluster.namespace, &cli.cluster_domain, &services);
    Ok(change::Pin {
        host,
        ports: called.ports,
    })
}

fn told(text: String) -> Outcome {
    Outcome { text, code: 0 }
}

fn said(changed: bool, text: &str) -> Outcome {
    let text = if changed { text } else { "nothing to change" };
    told(format!("{text}\n"))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_seconds(since.unwrap_or_default().as_secs())
}
