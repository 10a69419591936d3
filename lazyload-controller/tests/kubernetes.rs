//! The controller against a real kube-apiserver, which `KUBECONFIG` names, with the CRD installed:
//! `cargo test -p lazyload-controller --test kubernetes -- --ignored`. `make test` runs them on the testbed, through
//! `tests/mesh/controller.rs`. Each test has a namespace of its own.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/harness.rs"]
mod harness;

use std::time::{Duration, SystemTime};

use dependency_graph::{Dependency, Learned, Port, Protocol, Source, Timestamp, Workload, api};
use harness::*;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use lazyload_controller::expiry::{Evidence, Expired, Verdict};
use lazyload_controller::limits::Limits;
use lazyload_controller::metrics::Metrics;
use lazyload_controller::resource::WorkloadDependencies;
use lazyload_controller::store::Store;
use lazyload_controller::store::kubernetes::Kubernetes;
use prometheus::Registry;
use serde_json::json;
use tonic::{Code, Request};

struct Place {
    client: Client,
    namespace: String,
}

impl Place {
    async fn new(labels: serde_json::Value) -> Self {
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG names a cluster");
        let namespace = serde_json::from_value::<Namespace>(json!({
            "metadata": {"generateName": "graph-", "labels": labels}
        }));
        let (api, params) = (Api::<Namespace>::all(client.clone()), PostParams::default());
        let namespace = api
            .create(&params, &namespace.unwrap())
            .await
            .unwrap()
            .name_any();
        Self { client, namespace }
    }

    fn records(&self) -> Api<WorkloadDependencies> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn seen(&self, name: &str, host: &str) -> api::Observation {
        let mut observation = seen_at(name, host, Some(SystemTime::now()));
        observation
            .workload
            .as_mut()
            .unwrap()
            .namespace
            .clone_from(&self.namespace);
        observation
    }

    fn workload(&self, name: &str) -> api::Workload {
        api::Workload {
            namespace: self.namespace.clone(),
            ..workload(name)
        }
    }

    /// Waits until the watch has told that a workload's hosts are these.
    async fn until_told(
        &self,
        watch: &mut tonic::Streaming<api::WatchResponse>,
        name: &str,
        expected: &[&str],
    ) {
        let wanted = Some(self.workload(name));
        loop {
            let told = next(watch).await;
            if told
                .workloads
                .iter()
                .any(|w| w.workload == wanted && hosts(w) == expected)
            {
                return;
            }
        }
    }

    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asking)
            .await
            .unwrap_or_else(|_| panic!("{what}"))
    }
}

/// `CONTROLLER_KUBECONFIG`, if set, has the controller's own rights.
fn kubeconfig() -> String {
    let own = std::env::var("CONTROLLER_KUBECONFIG");
    own.or_else(|_| std::env::var("KUBECONFIG"))
        .expect("KUBECONFIG names a cluster")
}

async fn replica() -> Controller {
    let kubeconfig = kubeconfig();
    let flags = ["--auth", "none", "--sidecars", "off", "--kubeconfig"];
    Controller::start(&[&flags[..], &[&kubeconfig]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn two_replicas_learn_for_one_workload_and_lose_nothing() {
    let place = Place::new(json!({})).await;
    let (one, other) = (replica().await, replica().await);
    let (mut watch, _) = other.watch().await;
    let (mut to_one, mut to_other) = (one.report().await, other.report().await);
    let mut expected = Vec::new();
    for round in 0..20 {
        let (a, b) = (format!("a{round:02}.shop"), format!("b{round:02}.shop"));
        to_one.send(vec![place.seen("reviews", &a)]);
        to_other.send(vec![place.seen("reviews", &b)]);
        while to_one.stored().await < round + 1 {}
        while to_other.stored().await < round + 1 {}
        expected.extend([a, b]);
    }
    expected.sort();
    let record = place.records().get("deployment-reviews").await.unwrap();
    let status = record.status.unwrap();
    let kept: Vec<_> = status.dependencies.iter().map(|d| d.host.clone()).collect();
    assert_eq!(kept, expected);
    assert_eq!(status.dependency_count, 40);
    assert!(status.last_learned.is_some());
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    place.until_told(&mut watch, "reviews", &expected).await;
    let conflicts = one.metric("lazymesh_controller_conflicts_total ").await
        + other.metric("lazymesh_controller_conflicts_total ").await;
    eprintln!("{conflicts} conflicts met");

    // A third replica begins with all of it.
    let third = replica().await;
    let (_, snapshot) = third.watch().await;
    let wanted = Some(place.workload("reviews"));
    let told = snapshot
        .workloads
        .iter()
        .find(|w| w.workload == wanted)
        .unwrap();
    assert_eq!(hosts(told), expected);
    for controller in [one, other, third] {
        controller.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn learning_is_told_to_the_other_shim_within_moments() {
    let place = Place::new(json!({})).await;
    let controller = replica().await;
    let (mut watch, _) = controller.watch().await;
    let mut reporter = controller.report().await;
    let mut took = Vec::new();
    for round in 0..20 {
        let begin = std::time::Instant::now();
        reporter.send(vec![place.seen(&format!("w{round}"), "a.shop")]);
        place
            .until_told(&mut watch, &format!("w{round}"), &["a.shop"])
            .await;
        took.push(begin.elapsed());
        reporter.stored().await;
    }
    took.sort();
    eprintln!("told after {:?} (median), {:?} (worst)", took[10], took[19]);
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn people_pin_and_override_and_delete() {
    let place = Place::new(json!({"lazymesh.dev/mode": "on-demand"})).await;
    let controller = replica().await;
    let (mut watch, snapshot) = controller.watch().await;
    let mode = snapshot
        .namespaces
        .iter()
        .find(|n| n.namespace == place.namespace)
        .unwrap()
        .mode();
    assert_eq!(mode, api::Mode::OnDemand);
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![place.seen("reviews", "a.shop")])
        .await;
    place.until_told(&mut watch, "reviews", &["a.shop"]).await;

    let pin = json!({"spec": {"pinned": [{"host": "db.shop", "ports": [5432]}], "mode": "off"}});
    let params = PatchParams::default();
    place
        .records()
        .patch("deployment-reviews", &params, &Patch::Merge(pin))
        .await
        .unwrap();
    place
        .until_told(&mut watch, "reviews", &["a.shop", "db.shop"])
        .await;
    let caught_up = place.until("the status does not follow the spec", async || {
        let record = place.records().get("deployment-reviews").await.unwrap();
        let observed = record.status.as_ref()?.observed_generation;
        (observed == record.metadata.generation).then_some(record)
    });
    assert_eq!(caught_up.await.metadata.generation, Some(2));

    let label = json!({"metadata": {"labels": {"lazymesh.dev/mode": null}}});
    let namespaces = Api::<Namespace>::all(place.client.clone());
    namespaces
        .patch(
            &place.namespace,
            &PatchParams::default(),
            &Patch::Merge(label),
        )
        .await
        .unwrap();
    loop {
        let told = next(&mut watch).await;
        if let Some(n) = told
            .namespaces
            .iter()
            .find(|n| n.namespace == place.namespace)
        {
            assert_eq!(n.mode(), api::Mode::Unspecified);
            break;
        }
    }
    place
        .records()
        .delete("deployment-reviews", &DeleteParams::default())
        .await
        .unwrap();
    while !next(&mut watch)
        .await
        .removed
        .contains(&place.workload("reviews"))
    {}
    // It is learned anew.
    reporter
        .send_and_wait(vec![place.seen("reviews", "a.shop")])
        .await;
    place.until_told(&mut watch, "reviews", &["a.shop"]).await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_namespace_that_is_gone_holds_nothing_up() {
    let place = Place::new(json!({})).await;
    let controller = replica().await;
    let mut reporter = controller.report().await;
    let mut gone = place.seen("reviews", "a.shop");
    gone.workload.as_mut().unwrap().namespace = "no-such-namespace".into();
    reporter
        .send_and_wait(vec![gone, place.seen("reviews", "b.shop")])
        .await;
    let line = "lazymesh_controller_observations_total{result=\"unwritable\"} ";
    assert_eq!(controller.metric(line).await, 1.0);
    assert!(place.records().get("deployment-reviews").await.is_ok());
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn the_api_server_refuses_records_that_make_no_sense() {
    let place = Place::new(json!({})).await;
    let record = |name: &str, spec: serde_json::Value| {
        let value = json!({
            "apiVersion": "lazymesh.dev/v1alpha1", "kind": "WorkloadDependencies",
            "metadata": {"name": name}, "spec": spec,
        });
        serde_json::from_value::<WorkloadDependencies>(value).unwrap()
    };
    let reference = json!({"kind": "Deployment", "name": "web"});
    let make = async |name: &str, spec| {
        place
            .records()
            .create(&PostParams::default(), &record(name, spec))
            .await
    };
    for (name, spec, why) in [
        ("web", json!({"workloadRef": reference}), "must be named"),
        (
            "deployment-web",
            json!({"workloadRef": {"kind": "deployment", "name": "web"}}),
            "kind",
        ),
        (
            "deployment-web",
            json!({"workloadRef": reference, "pinned": [{"host": "A.b"}]}),
            "host",
        ),
        (
            "deployment-web",
            json!({"workloadRef": reference, "pinned": [{"host": "a.b", "ports": [0]}]}),
            "ports",
        ),
        (
            "deployment-web",
            json!({"workloadRef": reference, "expireAfter": "soon"}),
            "expireAfter",
        ),
    ] {
        let error = make(name, spec).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    make("deployment-web", json!({"workloadRef": reference}))
        .await
        .unwrap();
    let moved = json!({"spec": {"workloadRef": {"name": "other"}}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(moved));
    let patched = place
        .records()
        .patch("deployment-web", &params, &patch)
        .await;
    assert!(
        patched
            .unwrap_err()
            .to_string()
            .contains("workloadRef cannot change")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn kubernetes_vouches_for_callers() {
    let place = Place::new(json!({})).await;
    let accounts = Api::<ServiceAccount>::namespaced(place.client.clone(), &place.namespace);
    let token = async |name: &str, audience: &str| {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let _ = accounts.create(&PostParams::default(), &account).await;
        let spec = TokenRequestSpec {
            audiences: Some(vec![audience.into()]),
            ..Default::default()
        };
        let request = TokenRequest {
            spec: Some(spec),
            ..Default::default()
        };
        let params = PostParams::default();
        let answer = accounts
            .create_token_request(name, &params, &request)
            .await
            .unwrap();
        answer.status.unwrap().token.unwrap()
    };
    let shim = format!("{}/xds-shim", place.namespace);
    let controller = Controller::start(&[
        "--allow-service-account",
        &shim,
        "--sidecars",
        "off",
        "--kubeconfig",
        &kubeconfig(),
    ])
    .await;
    let call = async |token: &str| {
        let mut request = Request::new(api::WatchRequest::default());
        let header = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", header);
        let answer = controller.client().watch(request).await;
        answer.map(|_| ()).map_err(|status| status.code())
    };
    let good = token("xds-shim", "lazymesh.dev").await;
    assert_eq!(call(&good).await, Ok(()));
    assert_eq!(call(&good).await, Ok(()));
    assert_eq!(
        call(&token("xds-shim", "istio-ca").await).await,
        Err(Code::Unauthenticated)
    );
    assert_eq!(
        call(&token("other", "lazymesh.dev").await).await,
        Err(Code::PermissionDenied)
    );
    assert_eq!(call("nonsense").await, Err(Code::Unauthenticated));
    // A shim is none of those that may tell of calls.
    let mut request = Request::new(futures::stream::pending::<api::CallsRequest>());
    let header = format!("Bearer {good}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    let refused = controller.client().calls(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("--allow-global-proxy"));
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn what_is_forgotten_goes_unless_it_is_called_meanwhile() {
    let place = Place::new(json!({})).await;
    let own = Kubeconfig::read_from(kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(own, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let (store, limits) = (Kubernetes::new(client, metrics), Limits::default());
    let workload = Workload::new(&place.namespace, "Deployment", "reviews").unwrap();
    let at = Timestamp::from_seconds;
    let calls = |host: &str, seen: u64| {
        let mut learned = Learned::new();
        let dependency = Dependency {
            host: host.parse().unwrap(),
            port: Port::try_from(80).unwrap(),
            protocol: Protocol::Http,
        };
        learned.see(&dependency, at(seen), Source::OnDemand);
        learned
    };
    let verdict = |host: &str| Verdict {
        at: at(5000),
        expired: vec![Expired {
            called: (host.parse().unwrap(), Protocol::Http),
            last_seen: at(1000),
        }],
        evidence: Some(Evidence {
            since: at(10),
            until: at(5000),
        }),
        ..Verdict::default()
    };
    assert!(
        store
            .revise(&workload, &verdict("x"), &limits)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        place
            .records()
            .get_opt("deployment-reviews")
            .await
            .unwrap()
            .is_none()
    );
    for round in 0..10 {
        let (called, quiet) = (format!("called{round}.shop"), format!("quiet{round}.shop"));
        for host in [&called, &quiet] {
            store
                .learn(&workload, &calls(host, 1000), &limits)
                .await
                .unwrap();
        }
        store
            .revise(&workload, &verdict(&quiet), &limits)
            .await
            .unwrap();
        // Whichever comes first, the call is later than what was judged.
        let (verdict, later) = (verdict(&called), calls(&called, 6000));
        let (revised, learned) = tokio::join!(
            store.revise(&workload, &verdict, &limits),
            store.learn(&workload, &later, &limits)
        );
        revised.unwrap();
        learned.unwrap();
        // What a replica had on its way.
        store
            .learn(&workload, &calls(&quiet, 4000), &limits)
            .await
            .unwrap();
    }
    let record = place.records().get("deployment-reviews").await.unwrap();
    let status = record.status.unwrap();
    let kept: Vec<_> = status.dependencies.iter().map(|d| d.host.clone()).collect();
    let expected: Vec<_> = (0..10).map(|round| format!("called{round}.shop")).collect();
    assert_eq!(kept, expected);
    assert_eq!(status.forgotten.len(), 10);
    assert_eq!(status.evidence.unwrap().until.0.as_second(), 5000);
    let condition = status
        .conditions
        .iter()
        .find(|c| c.type_ == "NoEvidence")
        .unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("False", "Evidence")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn who_writes_no_sidecars_says_that_nothing_settles() {
    let place = Place::new(json!({"lazymesh.dev/mode": "on-demand"})).await;
    let controller = replica().await;
    let mut reporter = controller.report().await;
    reporter
        .send_and_wait(vec![place.seen("reviews", "a.shop")])
        .await;
    let settle = async |after: serde_json::Value| {
        let patch = json!({"spec": {"settleAfter": after}});
        place
            .records()
            .patch(
                "deployment-reviews",
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .unwrap();
    };
    let said = async || {
        let record = place.records().get("deployment-reviews").await.unwrap();
        let conditions = record.status.unwrap().conditions.into_iter();
        let found = conditions
            .filter(|one| one.type_ == "Settled")
            .map(|one| (one.status, one.reason));
        found.collect::<Vec<_>>()
    };
    settle(json!("24h")).await;
    let expected = vec![("False".to_owned(), "SidecarsOff".to_owned())];
    place
        .until("it is not said", async || {
            (said().await == expected).then_some(())
        })
        .await;
    // What is learned does not take it back.
    reporter
        .send_and_wait(vec![place.seen("reviews", "b.shop")])
        .await;
    assert_eq!(said().await, expected);
    settle(json!(null)).await;
    place
        .until("it is still said", async || {
            said().await.is_empty().then_some(())
        })
        .await;
    controller.stop().await;
}
