//! The controller's own tests against a real kube-apiserver (`lazyload-controller/tests/kubernetes.rs`) and a real
//! Prometheus (`lazyload-controller/tests/prometheus.rs`), which are ignored where there is none: run here, the former
//! with the rights of `manifests/rbac` and no more.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use mesh_tests::testbed::{Case, Mesh, Test, build_dir};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::process::Command;

const NAMESPACE: &str = "lazymesh-system";
const NAME: &str = "lazyload-controller";
const LIMIT: Duration = Duration::from_secs(180);
/// For the size that `make bench-controller` runs at.
const SCALE_LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("controller::on_a_real_api_server", on_a_real_api_server),
        // One of them takes a kind of resource away.
        Test::new("controller::mode_sidecar", mode_sidecar).exclusive(),
        Test::new("controller::on_a_real_prometheus", on_a_real_prometheus),
        Test::new("controller::at_scale", at_scale)
            .exclusive()
            .limit(SCALE_LIMIT),
    ]
}

async fn on_a_real_api_server(case: Case) -> Result<()> {
    run(&case, "kubernetes", 2, LIMIT).await
}

/// One at a time: all of them run for one Lease.
async fn mode_sidecar(case: Case) -> Result<()> {
    run(&case, "sidecars", 1, LIMIT).await
}

/// Without istiod, which would push thousands of Sidecars to nobody.
async fn at_scale(case: Case) -> Result<()> {
    case.mesh.stop_istiod().await?;
    let result = run(&case, "at_scale", 1, SCALE_LIMIT).await;
    if std::env::var_os("LAZYMESH_SCALE").is_none() {
        case.mesh.restart_istiod().await?;
    }
    result
}

/// Runs all of a test program of the controller's.
async fn run(case: &Case, program: &str, threads: usize, limit: Duration) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    // Installs the CRD.
    ns.controllers().await?;
    let mesh = ns.mesh();
    let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}");
    mesh.resources().apply("", &namespace).await?;
    let rbac = include_str!("../../manifests/rbac/lazyload-controller.yaml");
    mesh.resources().apply(NAMESPACE, rbac).await?;
    let own = own_kubeconfig(mesh, program).await?;
    let mut run = Command::new(newest_test(program)?);
    run.env("KUBECONFIG", mesh.places().kubeconfig());
    run.env("CONTROLLER_KUBECONFIG", own);
    passes(run, threads, limit).await
}

/// It needs no mesh: the tests make one by hand.
async fn on_a_real_prometheus(case: Case) -> Result<()> {
    let tools = case.mesh.tools();
    let mut run = Command::new(newest_test("prometheus")?);
    run.env("PROMETHEUS", &tools.prometheus);
    run.env("PROMTOOL", &tools.promtool);
    passes(run, 2, LIMIT).await
}

/// Runs the ignored tests of a program.
async fn passes(mut run: Command, threads: usize, limit: Duration) -> Result<()> {
    let run = run
        .args(["--ignored", "--show-output"])
        .arg(format!("--test-threads={threads}"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(limit, run)
        .await
        .context("the tests do not end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!said.contains(" 0 passed"), "no test ran: {said}");
    // What they measured.
    for line in said.lines().filter(|line| line.contains(" after ")) {
        eprintln!("{line}");
    }
    Ok(())
}

/// A kubeconfig with the token of the controller's service account.
async fn own_kubeconfig(mesh: &Mesh, program: &str) -> Result<PathBuf> {
    let client = mesh.resources().client().clone();
    let api: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..Default::default()
    };
    let answer = api
        .create_token_request(NAME, &PostParams::default(), &request)
        .await?;
    let token = answer.status.context("no token")?.token;
    let admin = mesh.places().kubeconfig();
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&admin)?)?;
    config["users"][0]["user"] = serde_json::json!({ "token": token });
    let own = admin.with_file_name(format!("controller-kubeconfig-{program}"));
    std::fs::write(&own, config.to_string())?;
    Ok(own)
}

/// The test program that cargo built last.
fn newest_test(program: &str) -> Result<PathBuf> {
    let start = format!("{program}-");
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(build_dir()?.join("deps"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.starts_with(&start) && path.extension().is_none() {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| {
        format!("not built (hint: cargo test -p lazyload-controller --test {program} --no-run)")
    })
}
