//! Endpoints: asked for upstream only for what the proxy has, given behind its cluster.

use super::*;

#[test]
fn a_starting_proxys_own_request_is_answered_although_it_was_sent_already() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.asks(ads::EDS, &[A]);
    assert_eq!((seen.given(), seen.to_istiod.len()), (vec![A], 0));
}

#[test]
fn a_running_proxys_own_request_is_answered_by_what_came_behind_the_cluster() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::CDS, &[A]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.asks(ads::EDS, &[A]);
    assert!(seen.to_proxy.is_empty() && seen.to_istiod.is_empty());
}

#[test]
fn every_cluster_that_is_given_has_its_endpoints_behind_it() {
    let changed = |to: &str| cluster_with(A, |c| c.alt_stat_name = to.into());
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::CDS, &[A]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    // Asked for once more, or changed: what was sent before counts for nothing.
    assert_eq!(stream.asks(ads::CDS, &[A]).given(), [A, A]);
    assert_eq!(
        stream.pushes(ads::CDS, "c2", &[changed("x")]).given(),
        [A, A]
    );
    assert!(stream.asks(ads::EDS, &[A]).to_proxy.is_empty());
}

#[test]
fn a_cluster_refused_along_with_another_has_its_endpoints_again() {
    let changed = cluster_with(A, |c| c.alt_stat_name = "x".into());
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let refused = stream.pushes(
        ads::CDS,
        "c2",
        &[changed.clone(), cluster("BlackHoleCluster")],
    );
    // Envoy took none of the clusters, and the endpoints for the one it had.
    stream.acks(&refused.to_proxy[1]);
    stream.refuses(&refused.to_proxy[0]);
    assert_eq!(stream.pushes(ads::CDS, "c3", &[changed]).given(), [A, A]);
}

#[test]
fn endpoints_that_two_clusters_share_are_sent_once_and_to_both() {
    let with_eds = |name: &str| {
        cluster_with(name, |c| {
            c.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
                service_name: "both".into(),
                ..Default::default()
            });
        })
    };
    let v1 = "outbound|80|v1|a.shop.svc.cluster.local";
    let mut stream = Stream::started(&[], &[with_eds(A), with_eds(v1)]);
    assert_eq!(stream.asks(ads::CDS, &[A]).subscribed(), ["both"]);
    stream.pushes(ads::EDS, "e1", &[endpoints("both", 1)]);
    let mut gone = stream.push(ads::CDS, "c2", &[], &[v1]);
    assert_eq!(gone.removed(), [v1]);
    gone = stream.pushes(ads::CDS, "c3", &[with_eds(v1)]);
    assert_eq!(gone.given(), [v1, "both"]);
    assert_eq!(stream.asks(ads::CDS, &[A, v1]).given(), [A, v1, "both"]);
}

#[test]
fn a_proxy_that_asks_for_endpoints_before_clusters_has_one_that_warms() {
    let mut before = Stream::new(&[a()]);
    before.asks(ads::CDS, &[]);
    let clusters = before.pushes(ads::CDS, "c1", &[cluster(A)]);
    let sent = before.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let version = |seen: &Seen| seen.to_proxy[0].resources[0].version.clone();

    let mut stream = Stream::new(&[a()]);
    stream.asks_holding(ads::EDS, &[A], &[(A, &version(&sent))]);
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]).given(),
        [A]
    );
    // Its cluster is as it was, and then they are not sent for it again.
    stream.asks_holding(ads::CDS, &[], &[(A, &version(&clusters))]);
    assert!(
        stream
            .pushes(ads::CDS, "c1", &[cluster(A)])
            .given()
            .is_empty()
    );
    let seen = stream.pushes(ads::EDS, "e2", &[endpoints(A, 1)]);
    assert!(seen.to_proxy.is_empty(), "{seen:?}");
}

#[test]
fn that_awaited_endpoints_are_gone_is_passed_on() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.asks(ads::EDS, &[A]);
    assert_eq!(stream.push(ads::EDS, "e1", &[], &[A]).removed(), [A]);
}

#[test]
fn a_request_that_overtakes_istiods_answer_waits_for_it() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::CDS, &[A]);
    let seen = stream.asks(ads::EDS, &[A]);
    assert!(seen.to_proxy.is_empty() && seen.to_istiod.is_empty());
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]).given(),
        [A]
    );
}

#[test]
fn a_changed_cluster_has_its_endpoints_behind_it() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.pushes(
        ads::CDS,
        "c2",
        &[cluster_with(A, |c| c.alt_stat_name = "x".into())],
    );
    assert_eq!(seen.order(), ["Cluster", "ClusterLoadAssignment"]);
    assert_eq!(seen.given(), [A, A]);
}

#[test]
fn endpoints_that_did_not_change_are_not_sent_again() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.pushes(ads::EDS, "e2", &[endpoints(A, 1)]);
    assert_eq!(
        (seen.to_proxy.len(), seen.acknowledged()),
        (0, vec![("e2", false)])
    );
    assert_eq!(
        stream.pushes(ads::EDS, "e3", &[endpoints(A, 2)]).given(),
        [A]
    );
}

#[test]
fn names_that_are_no_service_pass() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    assert_eq!(
        stream.asks(ads::EDS, &["local_cluster"]).subscribed(),
        ["local_cluster"]
    );
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints("local_cluster", 1)]);
    assert_eq!(seen.given(), ["local_cluster"]);
}

#[test]
fn what_the_proxy_gives_up_istiod_is_not_asked_for_any_longer() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.asks(ads::EDS, &[A]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.request(&pb::DeltaDiscoveryRequest {
        type_url: ads::EDS.into(),
        resource_names_unsubscribe: vec![A.into()],
        ..Default::default()
    });
    assert_eq!(seen.to_istiod[0].resource_names_unsubscribe, [A]);
    assert!(
        stream
            .pushes(ads::EDS, "e2", &[endpoints(A, 2)])
            .to_proxy
            .is_empty()
    );
    assert_eq!(stream.asks(ads::EDS, &[A]).subscribed(), [A]);
    assert_eq!(
        stream.pushes(ads::EDS, "e3", &[endpoints(A, 2)]).given(),
        [A]
    );
}

#[test]
fn clusters_without_eds_have_none() {
    let dns = cluster_with(A, |c| {
        c.cluster_discovery_type = Some(cds::cluster::ClusterDiscoveryType::Type(1));
    });
    let mut stream = Stream::started(&[], &[dns]);
    assert!(stream.asks(ads::CDS, &[A]).to_istiod.is_empty());
}

#[test]
fn another_eds_name_is_followed() {
    let renamed = cluster_with(A, |c| {
        c.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
            service_name: "elsewhere".into(),
            ..Default::default()
        });
    });
    let mut stream = Stream::started(&[], &[renamed]);
    assert_eq!(stream.asks(ads::CDS, &[A]).subscribed(), ["elsewhere"]);
}

#[test]
fn endpoints_that_istiod_takes_away_are_asked_for_anew() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    let seen = stream.push(ads::EDS, "e2", &[], &[A]);
    assert_eq!(
        (
            seen.removed(),
            seen.to_istiod[0].resource_names_unsubscribe.clone()
        ),
        (vec![A], vec![A.to_owned()])
    );
    let seen = stream.pushes(
        ads::CDS,
        "c2",
        &[cluster_with(A, |c| c.alt_stat_name = "x".into())],
    );
    assert_eq!((seen.given(), seen.subscribed()), (vec![A], vec![A]));
    assert_eq!(
        stream.pushes(ads::EDS, "e3", &[endpoints(A, 1)]).given(),
        [A]
    );
}
