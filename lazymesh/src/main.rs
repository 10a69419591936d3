//! The command `lazymesh`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lazymesh::args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(lazymesh::run(&cli)));
    match done {
        Ok(outcome) => {
            // Who reads may have had enough, as in `lazymesh graph | head`.
            let _ = std::io::stdout().write_all(outcome.text.as_bytes());
            ExitCode::from(outcome.code)
        }
        Err(error) => {
            eprintln!("lazymesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}
