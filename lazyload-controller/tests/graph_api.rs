//! The whole controller over loopback, on the stores that need no cluster.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/harness.rs"]
mod harness;

use std::time::{Duration, SystemTime};

use clap::Parser;
use dependency_graph::api::{self, ReportRequest, WatchRequest, WatchResponse};
use harness::*;
use lazyload_controller::app::App;
use lazyload_controller::config::Cli;
use mesh_runtime::drain::Drain;
use tonic::{Code, Request, Status};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_shim_learns_every_shim_is_told() {
    let controller = Controller::memory().await;
    let (mut one, snapshot) = controller.watch().await;
    assert_eq!(
        snapshot,
        WatchResponse {
            snapshot_complete: true,
            ..WatchResponse::default()
        }
    );
    let (mut other, _) = controller.watch().await;
    let mut reporter = controller.report().await;
    let begin = std::time::Instant::now();
    reporter.send(vec![seen("reviews", "ratings.shop")]);
    for watch in [&mut one, &mut other] {
        let told = next(watch).await;
        assert_eq!(told.workloads[0].workload, Some(workload("reviews")));
        assert_eq!(hosts(&told.workloads[0]), ["ratings.shop"]);
    }
    let took = begin.elapsed();
    eprintln!("told after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(reporter.stored().await, 1);
    let (_, snapshot) = controller.watch().await;
    assert_eq!(hosts(&snapshot.workloads[0]), ["ratings.shop"]);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_one_write_and_steady_traffic_none() {
    let controller = Controller::memory().await;
    let mut reporter = controller.report().await;
    for index in 0..10 {
        reporter.send(vec![
            seen("reviews", &format!("h{index}.shop")),
            seen("reviews", "same.shop"),
        ]);
    }
    while reporter.stored().await < 10 {}
    let writes = controller.metric("lazymesh_controller_writes_total ").await;
    assert!(writes <= 3.0, "{writes} writes");
    for _ in 0..5 {
        reporter
            .send_and_wait(vec![seen("reviews", "h3.shop")])
            .await;
    }
    assert_eq!(
        controller.metric("lazymesh_controller_writes_total ").await,
        writes
    );
    assert_eq!(
        controller.metric("lazymesh_controller_dependencies ").await,
        11.0
    );
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_counted_and_the_stream_goes_on() {
    let controller = Controller::memory().await;
    let mut reporter = controller.report().await;
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let mut bad_host = seen("reviews", "a|b");
    let bad = vec![
        std::mem::take(&mut bad_host),
        api::Observation::default(),
        seen_at("reviews", "old.shop", Some(now - 24 * 60 * hour)),
        seen_at("reviews", "new.shop", Some(now + hour)),
        seen_at("reviews", "unknown.time", None),
    ];
    reporter.send_and_wait(bad).await;
    let many = (0..1002).map(|_| seen("reviews", "good.shop")).collect();
    reporter.send_and_wait(many).await;
    let (_, snapshot) = controller.watch().await;
    assert_eq!(
        hosts(&snapshot.workloads[0]),
        ["good.shop", "new.shop", "old.shop", "unknown.time"],
        "times that make no sense are unknown ones"
    );
    for (result, count) in [("malformed", 2.0), ("batch_too_large", 2.0)] {
        let line = format!("lazymesh_controller_observations_total{{result=\"{result}\"}} ");
        assert_eq!(controller.metric(&line).await, count, "{result}");
    }
    reporter.sequence = 0;
    reporter.send(vec![]);
    let error = in_time(reporter.answers.message()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_a_folder_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::folder(folder.path()).await;
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![
            seen("reviews", "ratings.shop"),
            seen("web", "reviews.shop"),
        ])
        .await;
    controller.stop().await;

    let controller = Controller::folder(folder.path()).await;
    let (_, snapshot) = controller.watch().await;
    let told: Vec<_> = snapshot.workloads.iter().map(hosts).collect();
    assert_eq!(told, [["ratings.shop"], ["reviews.shop"]]);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_hand_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let namespace = |mode: &str| {
        let text = format!(
            "kind: Namespace\nmetadata: {{name: shop, labels: {{lazymesh.dev/mode: {mode}}}}}\n"
        );
        std::fs::write(folder.path().join("shop.yaml"), text).unwrap();
    };
    namespace("on-demand");
    std::fs::write(folder.path().join("broken.yaml"), "kind: [").unwrap();
    let controller = Controller::folder(folder.path()).await;
    let (mut watch, snapshot) = controller.watch().await;
    assert_eq!(snapshot.namespaces[0].mode(), api::Mode::OnDemand);
    namespace("off");
    assert_eq!(next(&mut watch).await.namespaces[0].mode(), api::Mode::Off);
    let record = "apiVersion: lazymesh.dev/v1alpha1\nkind: WorkloadDependencies\n\
        metadata: {name: deployment-reviews, namespace: shop}\n\
        spec: {workloadRef: {kind: Deployment, name: reviews}, mode: observe, pinned: [{host: db.shop, ports: [5432]}]}\n";
    std::fs::write(folder.path().join("reviews.yaml"), record).unwrap();
    let told = next(&mut watch).await;
    assert_eq!(told.workloads[0].mode(), api::Mode::Observe);
    assert_eq!(told.workloads[0].dependencies[0].port, 5432);

    // What is learned goes into the document that is there, and leaves its spec alone.
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![seen("reviews", "ratings.shop")])
        .await;
    assert_eq!(
        hosts(&next(&mut watch).await.workloads[0]),
        ["ratings.shop", "db.shop"]
    );
    let text = std::fs::read_to_string(folder.path().join("reviews.yaml")).unwrap();
    assert!(
        text.contains("db.shop") && text.contains("ratings.shop"),
        "{text}"
    );

    std::fs::remove_file(folder.path().join("reviews.yaml")).unwrap();
    assert_eq!(next(&mut watch).await.removed, [workload("reviews")]);
    std::fs::remove_file(folder.path().join("shop.yaml")).unwrap();
    assert_eq!(
        next(&mut watch).await.namespaces[0].mode(),
        api::Mode::Unspecified
    );
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_serves_one_controller() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::folder(folder.path()).await;
    let store = format!("file:{}", folder.path().display());
    let flags = [
        "x",
        "--plaintext",
        "--listen",
        "127.0.0.1:0",
        "--auth",
        "none",
        "--store",
        &store,
    ];
    let flags = Cli::try_parse_from(flags).unwrap().serve;
    let error = App::bind(&flags, None, Drain::new(DEADLINE))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("another controller has it"),
        "{error}"
    );
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_kept_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let flags = [
        "--store",
        &store,
        "--auth",
        "none",
        "--max-dependencies",
        "2",
        "--max-workloads",
        "1",
    ];
    let controller = Controller::start(&flags).await;
    let mut reporter = controller.report().await;
    let batch = || {
        ["a.shop", "b.shop", "c.shop"]
            .map(|host| seen("reviews", host))
            .to_vec()
    };
    reporter.send_and_wait(batch()).await;
    reporter.send_and_wait(batch()).await;
    reporter.send_and_wait(vec![seen("web", "a.shop")]).await;
    let (_, snapshot) = controller.watch().await;
    assert_eq!(snapshot.workloads.len(), 1);
    assert_eq!(hosts(&snapshot.workloads[0]), ["a.shop", "b.shop"]);
    let refused = "lazymesh_controller_observations_total{result=\"capped\"} ";
    assert_eq!(controller.metric(refused).await, 3.0);
    let text = std::fs::read_to_string(folder.path().join("shop.deployment-reviews.yaml")).unwrap();
    assert!(
        text.contains("LimitReached") && text.contains("dependencyCount: 2"),
        "{text}"
    );
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_show_the_token_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let auth = format!("token-file={}", token.display());
    let controller = Controller::start(&["--store", "memory", "--auth", &auth]).await;
    let with = async |header: Option<&str>| -> Result<(), Status> {
        let mut request = Request::new(WatchRequest::default());
        if let Some(header) = header {
            request
                .metadata_mut()
                .insert("authorization", header.parse().unwrap());
        }
        controller.client().watch(request).await.map(|_| ())
    };
    assert!(with(Some("Bearer secret")).await.is_ok());
    for bad in [
        None,
        Some("Bearer other"),
        Some("Bearer "),
        Some("Basic secret"),
        Some("secret"),
    ] {
        assert_eq!(
            with(bad).await.unwrap_err().code(),
            Code::Unauthenticated,
            "{bad:?}"
        );
    }
    let empty = futures::stream::pending::<ReportRequest>();
    let refused = controller.client().report(empty).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    std::fs::write(&token, "changed").unwrap();
    assert!(with(Some("Bearer secret")).await.is_err());
    assert!(with(Some("bearer changed")).await.is_ok());
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mesh_calls_are_refused_and_say_why() {
    let controller = Controller::memory().await;
    let call = api::Call {
        id: 7,
        ..api::Call::default()
    };
    let message = api::CallsRequest { calls: vec![call] };
    let outgoing = futures::stream::iter([message]);
    let mut client = controller.client();
    let mut answers = in_time(client.calls(outgoing)).await.unwrap().into_inner();
    let said = in_time(answers.message()).await.unwrap().unwrap().answers;
    assert_eq!((said[0].id, said[0].done), (7, true));
    assert_eq!(said[0].state(), api::call_answer::State::Refused);
    assert!(said[0].reason.contains("does not watch the mesh"));
    assert!(in_time(answers.message()).await.unwrap().is_none());
    let refused = "lazymesh_controller_calls_total{result=\"no_mesh\"} ";
    assert_eq!(controller.metric(refused).await, 1.0);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_watches_and_acknowledges_what_came() {
    let controller = Controller::memory().await;
    let (mut watch, _) = controller.watch().await;
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![seen("reviews", "a.shop")])
        .await;
    next(&mut watch).await;
    controller.stop().await;
    assert!(!matches!(in_time(watch.message()).await, Ok(Some(_))));
    assert!(!matches!(
        in_time(reporter.answers.message()).await,
        Ok(Some(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_graph_comes_in_parts_and_whole() {
    let controller = Controller::memory().await;
    let mut reporter = controller.report().await;
    for group in 0..20 {
        let batch = (0..900).map(|i| {
            seen(
                &format!("w{}", i % 90),
                &format!("h{group}-{i}.a-namespace-with-a-rather-long-name-so-that-it-adds-up.svc.cluster.local"),
            )
        });
        reporter.send_and_wait(batch.collect()).await;
    }
    let mut stream = controller
        .client()
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let (mut parts, mut dependencies) = (0, 0);
    loop {
        let part = next(&mut stream).await;
        parts += 1;
        dependencies += part
            .workloads
            .iter()
            .map(|w| w.dependencies.len())
            .sum::<usize>();
        if part.snapshot_complete {
            break;
        }
    }
    assert!(parts > 1, "{parts}");
    assert_eq!(dependencies, 18_000);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_tells_readiness_and_the_graph_and_ports_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let ports = folder.path().join("ports.json");
    let flags = [
        "--store",
        "memory",
        "--auth",
        "none",
        "--port-file",
        ports.to_str().unwrap(),
    ];
    let controller = Controller::start(&flags).await;
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![seen("reviews", "a.shop")])
        .await;
    assert!(
        get(controller.admin, "/healthz/ready")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let graph = get(controller.admin, "/debug/graph").await;
    assert!(graph.contains("a.shop:80/HTTP"), "{graph}");
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&ports).unwrap()).unwrap();
    assert_eq!(written["grpc"], controller.address.port());
    assert_eq!(written["admin"], controller.admin.port());
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_age_and_go_on_anew() {
    let flags = [
        "--store",
        "memory",
        "--auth",
        "none",
        "--max-stream-age",
        "2s",
    ];
    let controller = Controller::start(&flags).await;
    let (mut watch, _) = controller.watch().await;
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![seen("reviews", "a.shop")])
        .await;
    next(&mut watch).await;
    assert!(in_time(watch.message()).await.unwrap().is_none());
    assert!(in_time(reporter.answers.message()).await.unwrap().is_none());
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![seen("reviews", "b.shop")])
        .await;
    let (_, snapshot) = controller.watch().await;
    assert_eq!(hosts(&snapshot.workloads[0]), ["a.shop", "b.shop"]);
    controller.stop().await;
}
