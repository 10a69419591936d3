//! What a report says of where and with what it was made.

use anyhow::{Context, Result};
use mesh_tests::bench_report::{Machine, Report, Versions};
use mesh_tests::testbed::{Mesh, Pod};
use std::fs;
use std::process::Command;

/// Which of Envoy's deferred options the sidecar of a pod has on, as all have.
pub(super) async fn deferred(pod: &Pod) -> Result<String> {
    let dump = pod.envoy().await?.config_dump().await?.to_string();
    let options = [
        "enable_deferred_creation_stats",
        "enable_deferred_cluster_creation",
    ];
    let on = |option: &&str| dump.contains(&format!("\"{option}\":true"));
    let said = options.map(|option| {
        let state = if on(&option) { "on" } else { "off" };
        format!("{option} is {state}")
    });
    Ok(said.join(", "))
}

/// All but what was measured.
pub(super) fn report(mesh: &Mesh, repetitions: u32) -> Result<Report> {
    let istiod = said(&mesh.tools().pilot_discovery, &["version", "--short"])?;
    let envoy = said(&mesh.tools().envoy, &["--version"])?;
    Ok(Report {
        machine: machine()?,
        commit: commit(),
        versions: Versions {
            istio: Some(istiod),
            envoy: envoy.split('/').nth(1).map(str::to_owned),
            lazymesh: Some(env!("CARGO_PKG_VERSION").to_owned()),
        },
        deferred: None,
        repetitions: Some(repetitions),
        sizes: [].into(),
    })
}

fn said(program: &std::path::Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Nothing outside of a repository.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args([
        "-C",
        env!("CARGO_MANIFEST_DIR"),
        "describe",
        "--always",
        "--dirty",
    ]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn machine() -> Result<Machine> {
    let field = |file: &str, name: &str| -> Result<Option<String>> {
        let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.trim() == name);
        Ok(found.map(|(_, value)| value.trim().to_owned()))
    };
    let memory = field("/proc/meminfo", "MemTotal")?;
    let kib: Option<u64> = memory.and_then(|text| text.split(' ').next()?.parse().ok());
    Ok(Machine {
        cpu: field("/proc/cpuinfo", "model name")?,
        cores: std::thread::available_parallelism()
            .ok()
            .and_then(|cores| u32::try_from(cores.get()).ok()),
        memory_bytes: kib.map(|kib| kib * 1024),
        kernel: Some(
            fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
        ),
    })
}
