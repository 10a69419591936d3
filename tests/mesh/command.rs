//! Runs the command `lazymesh` as a person would.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Mesh, own_program};
use std::process::Output;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs it, as the administrator of the mesh.
pub(crate) async fn run(mesh: &Mesh, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(own_program("lazymesh")?);
    let kubeconfig = mesh.places().kubeconfig();
    command.arg("--kubeconfig").arg(kubeconfig).args(args);
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await;
    Ok(output.context("it does not end")??)
}

/// What it prints, when it succeeds.
pub(crate) async fn done(mesh: &Mesh, args: &[&str]) -> Result<String> {
    let output = run(mesh, args).await?;
    ensure!(output.status.success(), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}
