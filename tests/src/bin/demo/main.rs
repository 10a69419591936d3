//! `make demo`: a plain sidecar beside two lazy ones, on one machine, without Kubernetes or istiod.
//!
//! The control plane is the embedded one; Envoy, the shim, the controller and the global proxy are the real programs, and
//! every call goes through real interception. `story` tells what happens, in order, and `growing` its second act; the
//! other modules are their parts.

mod args;
mod authority;
mod bootstrap;
mod calls;
mod client;
mod growing;
mod learned;
mod mesh;
mod network;
mod parts;
mod process;
mod report;
mod screen;
mod secrets;
mod sidecar;
mod story;
mod table;
mod upstreams;
mod wait;

use args::Args;
use clap::Parser;
use mesh_tests::sandbox::{self, Entered, Rights, Sandbox};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let entered = match args.check() {
        Ok(()) => sandbox::enter(Rights::AnyUser).map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let ended = match entered {
        Ok(Entered::Ended(code)) => return code,
        Ok(Entered::Inside(sandbox)) => run(&args, &sandbox),
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, sandbox: &Sandbox) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(story::tell(args, sandbox))
}
