use super::*;
use crate::embedded::shape::numbered_service;
use crate::embedded::{CDS, EDS, LDS};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xds_shim::envoy::config::core::v3::Node;
use xds_shim::envoy::google::rpc;
use xds_shim::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xds_shim::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

const DEADLINE: Duration = Duration::from_secs(10);

async fn plane(count: u32) -> ControlPlane {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    ControlPlane::start(any_port, MeshShape::with_services(count))
        .await
        .unwrap()
}

struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn connect(plane: &ControlPlane) -> Self {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", plane.address()))
                .unwrap()
                .connect()
                .await
                .unwrap();
        let (requests, input) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(input));
        request
            .metadata_mut()
            .insert("clusterid", "Kubernetes".parse().unwrap());
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client
            .delta_aggregated_resources(request)
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            responses,
        }
    }

    async fn send(&self, type_url: &str, subscribe: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: "sidecar~10.0.0.1~client-0.ns-0~ns-0.svc.cluster.local".to_owned(),
                ..Default::default()
            }),
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = tokio::time::timeout(DEADLINE, self.responses.message())
            .await
            .unwrap()?;
        message.ok_or_else(|| Status::ok("ended"))
    }
}

/// Waits until the only stream's record says so.
async fn until(plane: &ControlPlane, what: impl Fn(&StreamRecord) -> bool) -> StreamRecord {
    let start = Instant::now();
    loop {
        if let Some(record) = plane.streams().pop().filter(&what) {
            return record;
        }
        assert!(start.elapsed() < DEADLINE, "{:?}", plane.streams());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_proxy_is_served_pushed_to_and_recorded() {
    let plane = plane(20).await;
    let mut proxy = Proxy::connect(&plane).await;
    proxy.send(CDS, &[]).await;
    let clusters = proxy.next().await.unwrap();
    assert_eq!(clusters.resources.len(), 46);
    let name = numbered_service(1).cluster(80);
    proxy.send(EDS, &[&name]).await;
    assert_eq!(proxy.next().await.unwrap().resources[0].name, name);

    plane.change(Change::Endpoints(numbered_service(1).host(), vec![]));
    let pushed = proxy.next().await.unwrap();
    assert_eq!((pushed.type_url.as_str(), pushed.resources.len()), (EDS, 1));

    let record = plane.streams().pop().unwrap();
    assert_eq!(record.metadata["clusterid"], "Kubernetes");
    assert!(record.node.contains("client-0.ns-0"));
    assert_eq!(record.requests_of(EDS).count(), 1);
    assert_eq!(
        (record.sent[CDS].resources, record.sent[EDS].responses),
        (46, 2)
    );
    assert!(record.sent_bytes() > 10_000);
}

#[tokio::test]
async fn nacks_are_recorded_with_their_text() {
    let plane = plane(1).await;
    let mut proxy = Proxy::connect(&plane).await;
    proxy.send(LDS, &[]).await;
    let listeners = proxy.next().await.unwrap();
    let nack = DeltaDiscoveryRequest {
        type_url: LDS.to_owned(),
        response_nonce: listeners.nonce,
        error_detail: Some(rpc::Status {
            code: 13,
            message: "bad listener".to_owned(),
            details: vec![],
        }),
        ..Default::default()
    };
    proxy.requests.send(nack).await.unwrap();
    let record = until(&plane, |stream| stream.nacks().count() == 1).await;
    assert_eq!(
        record.nacks().next().unwrap().error.as_deref(),
        Some("bad listener")
    );
}

#[tokio::test]
async fn a_cut_ends_streams_and_a_new_one_is_served() {
    let plane = plane(1).await;
    let mut proxy = Proxy::connect(&plane).await;
    proxy.send(CDS, &[]).await;
    proxy.next().await.unwrap();
    plane.cut();
    assert_eq!(
        proxy.next().await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
    until(&plane, |stream| !stream.open).await;
    let mut again = Proxy::connect(&plane).await;
    again.send(CDS, &[]).await;
    again.next().await.unwrap();
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let first = plane(1).await;
    let address = first.address();
    let mut proxy = Proxy::connect(&first).await;
    proxy.send(CDS, &[]).await;
    proxy.next().await.unwrap();
    tokio::time::timeout(DEADLINE, first.stop()).await.unwrap();
    ControlPlane::start(address, MeshShape::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_so() {
    let first = plane(1).await;
    let error = ControlPlane::start(first.address(), MeshShape::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&first.address().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_without_a_namespace_is_refused() {
    let plane = plane(1).await;
    let mut proxy = Proxy::connect(&plane).await;
    proxy
        .requests
        .send(DeltaDiscoveryRequest::default())
        .await
        .unwrap();
    assert_eq!(
        proxy.next().await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}
