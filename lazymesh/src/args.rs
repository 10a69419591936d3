//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Looks at Lazymesh in a cluster, and tells it what it should know.
///
/// It reads the records (WorkloadDependencies), namespaces, Services and pods with your own rights, and shims' admin ports where
/// they are given. Exit codes: 0 for done, 1 for an error, 2 for a wrong command line, 3 when `check` found something.
#[derive(Debug, Parser)]
#[command(name = "lazymesh", version, max_term_width = 100)]
pub struct Cli {
    /// How to reach Kubernetes; without it $KUBECONFIG, ~/.kube/config, or the pod's own service account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace; without it the context's
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(long, short = 'A', global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// An admin port of a shim, such as http://127.0.0.1:15014 after `kubectl port-forward`: what its sidecars hold is
    /// shown as well; may be given several times
    #[arg(long = "shim", global = true, value_name = "URL")]
    pub shims: Vec<String>,
    /// The namespace of Lazymesh itself
    #[arg(
        long,
        global = true,
        default_value = "lazymesh-system",
        value_name = "NAME"
    )]
    pub system_namespace: String,
    /// What the names of the cluster's services end with
    #[arg(
        long,
        global = true,
        default_value = "cluster.local",
        value_name = "DOMAIN"
    )]
    pub cluster_domain: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show each workload: its mode, what it learned, what is wrong
    Status,
    /// Show who calls whom
    Graph,
    /// Say what would become of a call now, and why
    Why {
        /// Who calls: NAME, or KIND/NAME if it is no Deployment
        source: String,
        /// Whom: a name as the application says it, with a port if that matters: reviews, reviews.shop:9080
        destination: String,
    },
    /// Give every pod of a workload a host from the start, called or not
    Pin {
        /// NAME, or KIND/NAME if it is no Deployment
        workload: String,
        /// The host, with its service ports if not all of them: reviews.shop:9080,9443
        host: String,
    },
    /// Take a pin back
    Unpin {
        /// NAME, or KIND/NAME if it is no Deployment
        workload: String,
        /// The host
        host: String,
    },
    /// Take a learned host out of a workload's record, and so out of its Sidecar: new pods start without it, until it is
    /// called again. What is pinned stays
    Forget {
        /// NAME, or KIND/NAME if it is no Deployment
        workload: String,
        /// The host; without it all that was learned
        host: Option<String>,
    },
    /// Label Lazymesh's namespace, so that all is in mode off, whatever else is labelled: sidecars are given their whole
    /// config, and need the memory for it. Nothing learned is lost
    Pause,
    /// End a pause. Behind a shim, pods that run keep what they have until they restart; in mode sidecar, and where it has
    /// settled, they are trimmed at once
    Resume,
    /// Look for what goes wrong, and say what to do about it: in all namespaces, or in the one of -n. Name all shims with
    /// --shim for it to say which pods are not behind one
    Check,
    /// Print a script that completes commands in a shell
    Completions {
        /// Which
        shell: Shell,
    },
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For Graphviz; of `graph`
    Dot,
    /// For Markdown; of `graph`
    Mermaid,
}
