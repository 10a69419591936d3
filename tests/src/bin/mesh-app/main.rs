//! The application in the testbed's pods: a server that answers with who it is and what it saw, and a client.

mod call;
mod digest;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "The application in the testbed's pods")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers over HTTP/1.1, HTTP/2, gRPC, WebSocket, TCP and TLS
    Serve(serve::Args),
    /// Calls, and prints the outcome of each call as a line of JSON
    Call(call::Args),
    /// Makes the call of each line of standard input, a JSON list of the arguments of `call`
    CallEach {
        /// Begins none after so long
        #[arg(long)]
        limit_ms: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mesh-app: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Call(args) => call::run(args).await,
            Command::CallEach { limit_ms } => call::run_each(Duration::from_millis(limit_ms)).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}
