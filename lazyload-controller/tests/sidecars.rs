//! The mode `sidecar` against a real kube-apiserver with Istio's CRDs, as `kubernetes.rs` beside this file: one test at a
//! time, for all replicas run for the one Lease.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/harness.rs"]
mod harness;
#[path = "support/mesh.rs"]
mod mesh;

use std::time::Instant;

use harness::*;
use lazyload_controller::cluster::Fault;
use mesh::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn opting_in_makes_the_fallback_first_and_a_restart_writes_nothing() {
    let mesh = Mesh::new(&["shop"]).await;
    let shop = mesh.namespace("shop");
    let controller = mesh.controller(&[]).await;
    mesh.learn(&controller, &[("cart", "pay")]).await;
    let sidecar = mesh.until_given("shop", "cart", &["pay"]).await;
    let filter = mesh.filter(shop, "lazymesh-fallback").await.unwrap();
    let made = |object: &kube::core::DynamicObject| object.metadata.creation_timestamp.clone();
    assert!(made(&filter).unwrap().0 < made(&sidecar).unwrap().0);
    // A workload that has learned nothing has a Sidecar as well, and no record.
    mesh.until_given("shop", "web", &[]).await;
    mesh.until_said("shop", "cart", "SidecarWritten", "True", "Written")
        .await;
    assert!(mesh.record("shop", "web").await.is_none());
    mesh.until_settled(&controller).await;
    let before = mesh.all(shop).await;
    controller.stop().await;

    let again = mesh.controller(&[]).await;
    mesh.until_settled(&again).await;
    assert_eq!(mesh.all(shop).await, before);
    assert_eq!(mesh.writes(&again).await, [].into());
    again.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_sidecar_grows_in_two_steps_and_soon() {
    let mesh = Mesh::new(&["shop"]).await;
    let controller = mesh.controller(&[]).await;
    mesh.until_given("shop", "cart", &[]).await;
    let mut reporter = controller.report().await;
    let (mut announced, mut given) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let service = format!("s{round}");
        mesh.service("shop", &service).await;
        mesh.until_listed(&controller, &mesh.host("shop", &service))
            .await;
        let begun = Instant::now();
        reporter.send(vec![mesh.seen("shop", "cart", &service)]);
        let first = mesh.until_told_of("cart", &service).await;
        announced.push(begun.elapsed());
        assert!(
            !mesh.gives(&first, &service),
            "given in one step: {first:?}"
        );
        mesh.until_given("shop", "cart", &[&service]).await;
        given.push(begun.elapsed());
        reporter.stored().await;
    }
    announced.sort();
    given.sort();
    eprintln!(
        "announced after {:?} (median), {:?} (worst); given after {:?}, {:?}",
        announced[10], announced[19], given[10], given[19]
    );
    controller.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_user_s_edit_of_ours_wins() {
    let mesh = Mesh::new(&["shop"]).await;
    let controller = mesh.controller(&[]).await;
    mesh.until_given("shop", "cart", &[]).await;
    mesh.until_given("shop", "web", &[]).await;
    let edited = json!({"spec": {"egress": [{"hosts": ["./*"]}]}});
    mesh.edit("shop", "cart", &edited).await;
    // What is added beside our fields is left there, and is no reason to write.
    let added = json!({"spec": {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}});
    mesh.edit("shop", "web", &added).await;
    mesh.learn(&controller, &[("cart", "pay"), ("web", "pay")])
        .await;
    mesh.until_said("shop", "cart", "EditedByHand", "True", "Conflict")
        .await;
    let sidecar = mesh.until_given("shop", "web", &["pay"]).await;
    assert_eq!(
        sidecar.data["spec"]["outboundTrafficPolicy"]["mode"],
        "REGISTRY_ONLY"
    );
    mesh.until_said("shop", "web", "EditedByHand", "True", "Conflict")
        .await;
    let sidecar = mesh.sidecar("shop", "cart").await.unwrap();
    assert_eq!(sidecar.data["spec"]["egress"], edited["spec"]["egress"]);
    mesh.until_settled(&controller).await;
    let writes = mesh.writes(&controller).await;
    mesh.service("shop", "other").await;
    mesh.until_listed(&controller, &mesh.host("shop", "other"))
        .await;
    mesh.until_settled(&controller).await;
    assert_eq!(mesh.writes(&controller).await, writes);
    controller.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_user_s_sidecar_wins_also_one_that_comes_later() {
    let mesh = Mesh::new(&["shop"]).await;
    let theirs =
        json!({"workloadSelector": {"labels": {"app": "cart"}}, "egress": [{"hosts": ["./*"]}]});
    mesh.make_sidecar("shop", "theirs", &theirs).await;
    // The name that ours would have is taken.
    let other =
        json!({"workloadSelector": {"labels": {"app": "nobody"}}, "egress": [{"hosts": ["./*"]}]});
    mesh.make_sidecar("shop", "lazymesh-deployment-web", &other)
        .await;
    let controller = mesh.controller(&[]).await;
    mesh.until_said("shop", "cart", "UserSidecar", "True", "SelectsItsPods")
        .await;
    mesh.until_said("shop", "web", "NameTaken", "True", "NameTaken")
        .await;
    assert!(mesh.sidecar("shop", "cart").await.is_none());
    // Its pod is older than the fallback that it is to have now.
    mesh.learn(&controller, &[("cart", "pay")]).await;
    mesh.delete_sidecar("shop", "theirs").await;
    mesh.until_given("shop", "cart", &["pay"]).await;
    mesh.until_said("shop", "cart", "SidecarWritten", "True", "Written")
        .await;

    let before = mesh.make_sidecar("shop", "theirs", &theirs).await;
    mesh.until("ours is still there", async || {
        mesh.sidecar("shop", "cart").await.is_none().then_some(())
    })
    .await;
    mesh.until_said("shop", "cart", "UserSidecar", "True", "SelectsItsPods")
        .await;
    assert_eq!(
        mesh.named("shop", "theirs").await.unwrap().data,
        before.data
    );
    let untouched = mesh.named("shop", "lazymesh-deployment-web").await.unwrap();
    assert_eq!(untouched.data["spec"], other);
    controller.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn opting_out_removes_everything_everywhere() {
    let mesh = Mesh::new(&["shop", "bank", "fair"]).await;
    let controller = mesh.controller(&[]).await;
    for namespace in ["shop", "bank", "fair"] {
        mesh.until_given(namespace, "cart", &[]).await;
    }
    mesh.learn(&controller, &[("cart", "pay")]).await;
    mesh.until_said("shop", "cart", "SidecarWritten", "True", "Written")
        .await;
    // While the controller runs: Sidecars first.
    mesh.opt("shop", "off").await;
    mesh.until("the Sidecars are still there", async || {
        mesh.sidecar("shop", "cart").await.is_none().then_some(())
    })
    .await;
    let shop = mesh.namespace("shop");
    assert!(mesh.filter(shop, "lazymesh-fallback").await.is_some());
    mesh.until_nothing_is_left("shop").await;
    mesh.until("its record still speaks of a Sidecar", async || {
        let record = mesh.record("shop", "cart").await?;
        let conditions = record.status?.conditions;
        (conditions.iter().all(|one| one.type_ == "Capped")).then_some(())
    })
    .await;
    // While it is down: in every namespace.
    controller.stop().await;
    mesh.opt("bank", "off").await;
    mesh.opt("fair", "on-demand").await;
    let controller = mesh.controller(&[]).await;
    mesh.until_nothing_is_left("bank").await;
    mesh.until_nothing_is_left("fair").await;
    controller.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn what_has_changed_meanwhile_is_not_written_over() {
    let mesh = Mesh::new(&["shop"]).await;
    let controller = mesh.controller(&[]).await;
    mesh.until_given("shop", "cart", &[]).await;
    mesh.until_settled(&controller).await;
    let old = mesh.made(&controller, "shop", "cart");
    mesh.learn(&controller, &[("cart", "pay")]).await;
    mesh.until_given("shop", "cart", &["pay"]).await;
    mesh.until_settled(&controller).await;
    let new = mesh.made(&controller, "shop", "cart");
    controller.stop().await;
    assert_eq!(old.uid, new.uid);
    // As one who leads again with what it knew then.
    let before = mesh.sidecar("shop", "cart").await.unwrap();
    let fault = mesh
        .apply("shop", "cart", &old, &old.spec)
        .await
        .unwrap_err();
    assert!(matches!(fault, Fault::Stale(_)), "{fault:?}");
    assert_eq!(mesh.sidecar("shop", "cart").await.unwrap(), before);
    mesh.apply("shop", "cart", &new, &old.spec).await.unwrap();
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn clean_up_takes_away_what_is_ours_and_nothing_else() {
    let mesh = Mesh::new(&["shop", "bank"]).await;
    let controller = mesh.controller(&[]).await;
    for namespace in ["shop", "bank"] {
        mesh.until_given(namespace, "cart", &[]).await;
        mesh.until_given(namespace, "web", &[]).await;
    }
    let theirs =
        json!({"workloadSelector": {"labels": {"app": "nobody"}}, "egress": [{"hosts": ["./*"]}]});
    let before = mesh.make_sidecar("shop", "theirs", &theirs).await;
    let label = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "lazymesh"}}});
    mesh.make_sidecar("shop", "copy", &theirs).await;
    mesh.label_sidecar("shop", "copy", &label).await;
    mesh.until_settled(&controller).await;
    // A controller that runs would write it all again.
    let (said, ended) = mesh.clean_up().await;
    assert!(ended.unwrap_err().contains("scale"), "{said:?}");
    mesh.until_given("bank", "cart", &[]).await;
    mesh.until_settled(&controller).await;
    controller.stop().await;

    let begun = Instant::now();
    let (said, ended) = mesh.clean_up().await;
    assert_eq!(ended, Ok(()), "{said:?}");
    assert!(begun.elapsed() >= LINGERS, "{:?}", begun.elapsed());
    let at = |what: &str| {
        said.iter()
            .rposition(|line| line.starts_with(what))
            .unwrap()
    };
    let first_filter = said
        .iter()
        .position(|line| line.starts_with("EnvoyFilter "));
    assert!(at("Sidecar ") < first_filter.unwrap(), "{said:?}");
    assert_eq!(at("nothing is left"), said.len() - 1);
    for namespace in ["shop", "bank"] {
        mesh.until_nothing_is_left(namespace).await;
    }
    let left = mesh.named("shop", "theirs").await.unwrap();
    assert_eq!(
        left.metadata.resource_version,
        before.metadata.resource_version
    );
    assert!(mesh.named("shop", "copy").await.is_some());
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_leader_that_dies_in_a_burst_loses_nothing() {
    let mesh = Mesh::new(&["shop"]).await;
    let services: Vec<String> = (0..30).map(|number| format!("s{number:02}")).collect();
    for service in &services {
        mesh.service("shop", service).await;
    }
    let leader = mesh.controller(&[]).await;
    mesh.until_given("shop", "cart", &[]).await;
    let other = mesh.controller(&[]).await;
    assert_eq!(leader.metric("lazymesh_controller_leader ").await, 1.0);
    let (mut to_leader, mut to_other) = (leader.report().await, other.report().await);
    for (index, service) in services.iter().enumerate() {
        if index == 15 {
            // As if it were killed: it gives no Lease back.
            leader.running.abort();
        }
        if index < 15 && index % 2 == 0 {
            to_leader.send(vec![mesh.seen("shop", "cart", service)]);
            to_leader.stored().await;
        } else {
            to_other.send(vec![mesh.seen("shop", "cart", service)]);
            to_other.stored().await;
        }
    }
    assert_eq!(other.metric("lazymesh_controller_leader ").await, 0.0);
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let begun = Instant::now();
    mesh.until_given_in(3 * DEADLINE, "shop", "cart", &services)
        .await;
    eprintln!("another leader had written all after {:?}", begun.elapsed());
    other.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn every_replica_knows_what_workloads_are_given() {
    let mesh = Mesh::new(&["shop"]).await;
    let leader = mesh.controller(&[]).await;
    mesh.until_given("shop", "cart", &[]).await;
    let other = mesh.controller(&[]).await;
    mesh.learn(&other, &[("cart", "pay")]).await;
    mesh.until_given("shop", "cart", &["pay"]).await;
    let host = mesh.host("shop", "pay");
    for replica in [&leader, &other] {
        let cart = mesh.workload("shop", "cart");
        mesh.until("it is not told that the host is given", async || {
            let standing = replica.known.given.standing(&cart, &host);
            matches!(standing, lazyload_controller::given::Standing::Given(_)).then_some(())
        })
        .await;
    }
    leader.stop().await;
    // It was given back: the next need not wait for it to run out.
    mesh.learn(&other, &[("cart", "rates")]).await;
    mesh.until_given("shop", "cart", &["pay", "rates"]).await;
    other.stop().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn a_kind_that_is_installed_later_counts_from_then_on() {
    let mesh = Mesh::new(&["shop"]).await;
    let before = mesh.remove_tcp_routes().await;
    let controller = mesh.controller(&[]).await;
    mesh.learn(&controller, &[("cart", "pay")]).await;
    let sidecar = mesh.until_given("shop", "cart", &["pay"]).await;
    assert!(!mesh.gives(&sidecar, "rates"));
    mesh.install_tcp_routes().await;
    mesh.make_tcp_route("shop", "pay", "rates").await;
    mesh.until_given("shop", "cart", &["pay", "rates"]).await;
    mesh.remove_tcp_routes().await;
    mesh.until("the route still counts", async || {
        let sidecar = mesh.sidecar("shop", "cart").await?;
        (!mesh.gives(&sidecar, "rates")).then_some(())
    })
    .await;
    mesh.restore_tcp_routes(before).await;
    controller.stop().await;
    mesh.end().await;
}
