//! On-demand streams end to end: what one learns, the others have.

use super::*;
use crate::envoy::config::core::v3 as core;
use crate::envoy::google::protobuf::{Struct, Value, value::Kind};
use crate::wire;
use prost::Message;

const A: &str = "outbound|80||a.shop.svc.cluster.local";

fn cart() -> Workload {
    Workload::new("shop", "Deployment", "cart").unwrap()
}

fn node() -> Bytes {
    let text = |v: &str| Value {
        kind: Some(Kind::StringValue(v.into())),
    };
    let owner = "kubernetes://apis/apps/v1/namespaces/shop/deployments/cart";
    let fields = [("NAMESPACE", "shop"), ("OWNER", owner)];
    let version = core::BuildVersion {
        version: Some(crate::envoy::r#type::v3::SemanticVersion {
            major_number: 1,
            minor_number: 40,
            patch: 0,
        }),
        metadata: None,
    };
    core::Node {
        id: "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local".into(),
        metadata: Some(Struct {
            fields: fields.map(|(k, v)| (k.to_owned(), text(v))).into(),
        }),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(
            version,
        )),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

fn first() -> DeltaRequest {
    DeltaRequest {
        node: Some(node()),
        type_url: ads::CDS.into(),
        ..Default::default()
    }
}

fn asking(name: &str) -> DeltaRequest {
    DeltaRequest {
        type_url: ads::CDS.into(),
        subscribe: vec![name.into()],
        ..Default::default()
    }
}

fn clusters(nonce: &str, names: &[&str]) -> Bytes {
    let mut writer = ResponseWriter::new(ads::CDS, nonce, &[]);
    for name in names {
        let mut resource = Vec::new();
        wire::put_string(&mut resource, 3, name);
        writer.resource(&resource, "");
    }
    writer.finish()
}

fn names(response: &DeltaResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

/// A lazy stream whose first answer has come.
async fn lazy(mesh: &mut Mesh) -> (Proxy, Upstream, DeltaResponse) {
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(first().encode()).await;
    let mut upstream = mesh.upstream().await;
    assert!(upstream.delta_request().await.node.is_some());
    upstream
        .respond(clusters("c1", &["PassthroughCluster", A]))
        .await;
    let answer = proxy.delta_response().await;
    (proxy, upstream, answer)
}

#[tokio::test]
async fn what_one_pod_asks_for_the_next_has() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let (mut one, _up_one, answer) = lazy(&mut mesh).await;
    assert_eq!(names(&answer), ["PassthroughCluster"]);
    let (mut two, _up_two, _) = lazy(&mut mesh).await;
    one.send(asking(A).encode()).await;
    assert_eq!(names(&one.delta_response().await), [A]);
    assert_eq!(
        names(&two.delta_response().await),
        [A],
        "a running pod of the workload"
    );
    let (_three, _up_three, answer) = lazy(&mut mesh).await;
    assert!(names(&answer).contains(&A), "a new pod of the workload");
    assert_eq!(
        mesh.shared.graph.dump()["shop/cart"],
        ["a.shop.svc.cluster.local:80"]
    );
}

#[tokio::test]
async fn what_the_controller_says_is_given() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let (mut proxy, _upstream, _) = lazy(&mut mesh).await;
    let state = api::WorkloadState {
        workload: Some((&cart()).into()),
        dependencies: vec![api::Dependency {
            host: "a.shop.svc.cluster.local".into(),
            port: 80,
            protocol: api::Protocol::Http as i32,
        }],
        ..Default::default()
    };
    mesh.shared.graph.apply(api::WatchResponse {
        workloads: vec![state],
        ..Default::default()
    });
    assert_eq!(names(&proxy.delta_response().await), [A]);
}

#[tokio::test]
async fn a_label_taken_off_ends_lazy_streams_so_that_they_get_everything() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let label = |mode| {
        let namespace = api::NamespaceMode {
            namespace: "shop".into(),
            mode,
            ..Default::default()
        };
        api::WatchResponse {
            namespaces: vec![namespace],
            snapshot_complete: true,
            ..Default::default()
        }
    };
    mesh.shared.graph.begin();
    mesh.shared.graph.apply(label(api::Mode::OnDemand as i32));
    let (mut proxy, _upstream, _) = lazy(&mut mesh).await;
    mesh.shared
        .graph
        .apply(label(api::Mode::Unspecified as i32));
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
    let (_proxy, _upstream, answer) = lazy(&mut mesh).await;
    assert_eq!(names(&answer), ["PassthroughCluster", A]);
}

#[tokio::test]
async fn a_stream_that_ends_by_our_error_ends_alone_and_is_whole_the_next_time() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let (mut good, _upstream, _) = lazy(&mut mesh).await;
    let (mut bad, up_bad, _) = lazy(&mut mesh).await;
    up_bad.respond(&b"\xff\xff"[..]).await;
    assert_eq!(bad.end().await.code(), Code::Internal);
    let (_again, _up_again, answer) = lazy(&mut mesh).await;
    assert_eq!(names(&answer), ["PassthroughCluster", A]);
    good.send(asking(A).encode()).await;
    assert_eq!(names(&good.delta_response().await), [A]);
}

#[tokio::test]
async fn a_proxy_that_sends_nonsense_is_told_so() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let (mut bad, _upstream, _) = lazy(&mut mesh).await;
    bad.send(&b"\xff\xff"[..]).await;
    assert_eq!(bad.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_lost_and_taken_up_again_keeps_what_it_had() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let (mut proxy, upstream, _) = lazy(&mut mesh).await;
    proxy.send(asking(A).encode()).await;
    let given = proxy.delta_response().await;
    let version = wire::string(&given.resources[0].raw, 1).unwrap().to_owned();
    drop(upstream);
    let _ = proxy.end().await;
    // Another replica, which has never heard of it, without a controller and with mode off.
    let mut mesh = Mesh::start(Mode::Off).await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    let again = DeltaRequest {
        subscribe: vec!["*".into(), A.into()],
        initial_versions: vec![(A.into(), version)],
        ..first()
    };
    proxy.send(again.encode()).await;
    let mut upstream = mesh.upstream().await;
    assert!(upstream.delta_request().await.subscribe.is_empty());
    assert_eq!(mesh.shared.streams.list()[0].treatment, "on_demand");
    upstream
        .respond(clusters("c1", &["PassthroughCluster", A]))
        .await;
    let answer = proxy.delta_response().await;
    assert_eq!(
        (names(&answer), answer.removed.len()),
        (vec!["PassthroughCluster"], 0)
    );
}
