use super::*;
use crate::embedded::resources::{Change, Resources};
use crate::embedded::shape::{MeshShape, numbered_service};
use xds_shim::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_shim::envoy::google::rpc::Status;
use xds_shim::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};

/// A session on a mesh of twenty services, and what it was last sent.
struct Peer {
    resources: Resources,
    session: Session,
    nonce: String,
}

impl Peer {
    fn new() -> Self {
        let resources = Resources::new(MeshShape::with_services(20));
        Self {
            resources,
            session: Session::default(),
            nonce: String::new(),
        }
    }

    fn ask(&mut self, request: &DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
        let snapshot = self.resources.snapshot("ns-0");
        let responses = self.session.on_delta_request(request, &snapshot, 1);
        self.nonce = responses
            .last()
            .map_or_else(|| self.nonce.clone(), |last| last.nonce.clone());
        responses
    }

    fn subscribe(&mut self, url: &str, names: &[&str]) -> Vec<DeltaDiscoveryResponse> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        })
    }

    fn ack(&mut self, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryResponse> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
    }

    fn change(&mut self, change: Change) -> Vec<DeltaDiscoveryResponse> {
        let push = self.resources.apply(change);
        let snapshot = self.resources.snapshot("ns-0");
        self.session.on_delta_push(&push, &snapshot, 2)
    }
}

fn names(response: &DeltaDiscoveryResponse) -> BTreeSet<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn set<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

fn types(responses: &[DeltaDiscoveryResponse]) -> Vec<&str> {
    responses
        .iter()
        .map(|response| response.type_url.as_str())
        .collect()
}

#[test]
fn the_first_cluster_request_gets_all_clusters_without_versions() {
    let mut peer = Peer::new();
    let responses = peer.subscribe(CDS, &[]);
    assert_eq!(types(&responses), [CDS]);
    assert_eq!(responses[0].resources.len(), 46);
    assert!(
        responses[0]
            .resources
            .iter()
            .all(|resource| resource.version.is_empty())
    );
    assert!(responses[0].removed_resources.is_empty());
    assert!(peer.ack(&responses[0]).is_empty());
}

#[test]
fn endpoints_come_for_the_names_asked_and_an_unknown_one_is_empty() {
    let mut peer = Peer::new();
    let known = numbered_service(1).cluster(80);
    let responses = peer.subscribe(EDS, &[&known, "outbound|80||nobody"]);
    assert_eq!(names(&responses[0]), set(&[&known, "outbound|80||nobody"]));
    let bodies: Vec<ClusterLoadAssignment> = responses[0]
        .resources
        .iter()
        .map(|one| ClusterLoadAssignment::decode(one.resource.as_ref().unwrap().value.as_slice()))
        .collect::<Result<_, _>>()
        .unwrap();
    let bodies: BTreeMap<_, _> = bodies
        .into_iter()
        .map(|one| (one.cluster_name, one.endpoints.len()))
        .collect();
    assert_eq!((bodies[&known], bodies["outbound|80||nobody"]), (1, 0));
    // A later subscription is answered with the new name alone.
    let more = numbered_service(2).cluster(80);
    assert_eq!(
        names(&peer.subscribe(EDS, &[&more])[0]),
        set(&[more.as_str()])
    );
}

#[test]
fn no_endpoints_are_given_to_one_who_asks_for_none() {
    let mut peer = Peer::new();
    assert!(peer.subscribe(EDS, &[]).is_empty());
    assert!(peer.change(Change::FullPush).is_empty());
}

#[test]
fn an_unknown_route_config_is_answered_empty() {
    let mut peer = Peer::new();
    let responses = peer.subscribe(RDS, &["80", "no such"]);
    assert_eq!(names(&responses[0]), set(&["80", "no such"]));
}

#[test]
fn a_later_cluster_request_forces_all_clusters_and_all_watched_endpoints() {
    let mut peer = Peer::new();
    let first = peer.subscribe(CDS, &[]);
    peer.ack(&first[0]);
    let name = numbered_service(1).cluster(80);
    peer.subscribe(EDS, &[&name]);
    let responses = peer.subscribe(CDS, &["made-up"]);
    assert_eq!(types(&responses), [CDS, EDS]);
    assert_eq!(responses[0].resources.len(), 46);
    assert_eq!(responses[0].removed_resources, ["made-up"]);
    assert_eq!(names(&responses[1]), set(&[name.as_str()]));
}

#[test]
fn a_reconnecting_proxy_is_told_what_is_gone() {
    let mut peer = Peer::new();
    let gone = "outbound|80||gone".to_owned();
    let kept = numbered_service(1).cluster(80);
    let responses = peer.ask(&DeltaDiscoveryRequest {
        type_url: CDS.to_owned(),
        initial_resource_versions: [(gone.clone(), String::new()), (kept, String::new())].into(),
        ..Default::default()
    });
    assert_eq!(responses[0].removed_resources, [gone]);
}

#[test]
fn a_stale_nonce_and_a_nack_are_answered_with_nothing() {
    let mut peer = Peer::new();
    let first = peer.subscribe(CDS, &[]).remove(0);
    let stale = DeltaDiscoveryRequest {
        type_url: CDS.to_owned(),
        resource_names_subscribe: vec!["x".to_owned()],
        response_nonce: "stale".to_owned(),
        ..Default::default()
    };
    assert!(peer.ask(&stale).is_empty());
    let nack = DeltaDiscoveryRequest {
        type_url: CDS.to_owned(),
        response_nonce: first.nonce.clone(),
        error_detail: Some(Status {
            code: 13,
            message: "no".to_owned(),
            details: vec![],
        }),
        ..Default::default()
    };
    assert!(peer.ask(&nack).is_empty());
}

#[test]
fn unsubscribing_is_silent_and_stops_the_updates() {
    let mut peer = Peer::new();
    let service = numbered_service(1);
    let name = service.cluster(80);
    peer.subscribe(EDS, &[&name]);
    let change = || Change::Endpoints(service.host(), vec![[10, 0, 0, 9].into()]);
    assert_eq!(names(&peer.change(change())[0]), set(&[name.as_str()]));
    let unsubscribe = DeltaDiscoveryRequest {
        type_url: EDS.to_owned(),
        resource_names_unsubscribe: vec![name.clone()],
        ..Default::default()
    };
    assert!(peer.ask(&unsubscribe).is_empty());
    assert!(peer.change(change()).is_empty());
}

#[test]
fn pushes_come_in_istiods_order_for_what_is_watched() {
    let mut peer = Peer::new();
    for (url, asked) in [(RDS, vec!["80"]), (LDS, vec![]), (CDS, vec![])] {
        peer.subscribe(url, &asked);
    }
    assert_eq!(types(&peer.change(Change::FullPush)), [CDS, LDS, RDS]);
    peer.subscribe(EDS, &[&numbered_service(1).cluster(80)]);
    assert_eq!(types(&peer.change(Change::FullPush)), PUSH_ORDER);
}

#[test]
fn a_new_service_is_a_delta_of_clusters_and_a_removed_one_is_named() {
    let mut peer = Peer::new();
    peer.subscribe(CDS, &[]);
    let service = numbered_service(77);
    let added = peer.change(Change::PutService(service.clone()));
    assert_eq!(
        names(&added[0]),
        set(&[&service.cluster(80), &service.cluster(8080)])
    );
    let removed = peer.change(Change::RemoveService(service.host()));
    assert!(removed[0].resources.is_empty());
    let gone: BTreeSet<_> = removed[0]
        .removed_resources
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(gone, set(&[&service.cluster(80), &service.cluster(8080)]));
    // It is not named a second time.
    assert!(
        peer.change(Change::FullPush)[0]
            .removed_resources
            .is_empty()
    );
}

#[test]
fn nonces_differ_and_bear_the_version_of_the_push() {
    let mut peer = Peer::new();
    let first = peer.subscribe(CDS, &[]).remove(0);
    let second = peer.change(Change::FullPush).remove(0);
    assert_ne!(first.nonce, second.nonce);
    assert_eq!(
        (
            first.system_version_info.as_str(),
            second.system_version_info.as_str()
        ),
        ("1", "2")
    );
}

#[test]
fn types_without_a_generator_are_not_answered_until_something_is_put() {
    let mut peer = Peer::new();
    let url = "type.googleapis.com/istio.networking.nds.v1.NameTable";
    assert!(peer.subscribe(url, &[]).is_empty());
    let body = bytes::Bytes::from_static(b"table");
    let change = Change::PutResource {
        type_url: url.to_owned(),
        name: "t".to_owned(),
        body,
    };
    assert_eq!(names(&peer.change(change)[0]), set(&["t"]));
}

fn sotw(peer: &mut Peer, url: &str, listed: &[&str], nonce: &str) -> Vec<(String, usize, String)> {
    let request = DiscoveryRequest {
        type_url: url.to_owned(),
        resource_names: listed.iter().map(|&name| name.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    };
    let snapshot = peer.resources.snapshot("ns-0");
    let responses = peer.session.on_sotw_request(&request, &snapshot, 1);
    responses
        .into_iter()
        .map(|r| (r.type_url, r.resources.len(), r.nonce))
        .collect()
}

#[test]
fn state_of_the_world_answers_first_requests_new_names_and_not_acks() {
    let mut peer = Peer::new();
    let clusters = sotw(&mut peer, CDS, &[], "");
    assert_eq!((clusters.len(), clusters[0].1), (1, 46));
    assert!(sotw(&mut peer, CDS, &[], &clusters[0].2).is_empty());
    let (one, two) = (
        numbered_service(1).cluster(80),
        numbered_service(2).cluster(80),
    );
    let first = sotw(&mut peer, EDS, &[&one], "");
    assert_eq!(first[0].1, 1);
    assert!(sotw(&mut peer, EDS, &[&one], &first[0].2).is_empty());
    let more = sotw(&mut peer, EDS, &[&one, &two], &first[0].2);
    assert_eq!(more[0].1, 1);
}

#[test]
fn a_state_of_the_world_push_of_clusters_is_whole() {
    let mut peer = Peer::new();
    sotw(&mut peer, CDS, &[], "");
    let push = peer
        .resources
        .apply(Change::PutService(numbered_service(77)));
    let snapshot = peer.resources.snapshot("ns-0");
    let responses = peer.session.on_sotw_push(&push, &snapshot, 2);
    assert_eq!(responses[0].resources.len(), 48);
}
