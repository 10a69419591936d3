//! What is held, what is asked for, what is given.

use super::*;

#[test]
fn a_cold_proxy_gets_the_special_clusters_only() {
    let mut stream = Stream::new(&[]);
    let seen = stream.asks(ads::CDS, &[]);
    // istiod makes listeners while the proxy takes its clusters.
    let types = seen.to_istiod.iter().map(|r| r.type_url.as_str());
    assert_eq!(types.collect::<Vec<_>>(), [ads::CDS, ads::LDS]);
    assert_eq!(seen.to_istiod[0].node.as_ref().unwrap().id, "n");
    assert!(seen.to_istiod[0].initial_resource_versions.is_empty());
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(A), cluster(SPECIAL), cluster(B)]);
    assert_eq!(seen.given(), [SPECIAL]);
    assert_eq!(seen.to_proxy[0].system_version_info, "v");
    assert_eq!(
        stream.acks(&seen.to_proxy[0]).acknowledged(),
        [("c1", false)]
    );
    assert_eq!(stream.session.summary().held, 2);
}

#[test]
fn listeners_and_routes_are_there_when_the_proxy_asks() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL)]);
    let seen = stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    assert_eq!(seen.given().len(), 0, "it has not asked");
    assert_eq!(seen.acknowledged(), [("l1", false)]);
    assert_eq!(seen.subscribed(), ["80"]);
    let seen = stream.pushes(ads::RDS, "r1", &[routes("80", A, &[])]);
    assert_eq!(
        (seen.given().len(), seen.acknowledged()),
        (0, vec![("r1", false)])
    );
    let seen = stream.asks(ads::LDS, &[]);
    assert_eq!(
        (seen.given(), seen.to_istiod.len()),
        (vec!["0.0.0.0_80"], 0)
    );
    let seen = stream.asks(ads::RDS, &["80"]);
    assert_eq!((seen.given(), seen.to_istiod.len()), (vec!["80"], 0));
}

#[test]
fn the_first_answer_goes_out_even_when_it_is_empty() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(A)]);
    assert_eq!((seen.order(), seen.given().len()), (vec!["Cluster"], 0));
}

#[test]
fn what_is_asked_for_is_given_at_once_with_all_subsets_and_endpoints_behind() {
    let mut stream = Stream::started(
        &[],
        &[cluster(A), cluster(A_V1), cluster(A_OTHER_PORT), cluster(B)],
    );
    let seen = stream.asks(ads::CDS, &[A]);
    let mut given = seen.given();
    given.sort_unstable();
    assert_eq!(given, [A_V1, A]);
    assert_eq!(
        seen.asks,
        [Ask {
            service: a(),
            protocol: Protocol::Http,
            now: true
        }]
    );
    // The name itself never goes upstream; its endpoints do.
    assert!(seen.to_istiod.iter().all(|r| r.type_url == ads::EDS));
    let mut subscribed = seen.subscribed();
    subscribed.sort_unstable();
    assert_eq!(subscribed, [A_V1, A]);
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1), endpoints(A_V1, 1)]);
    assert_eq!(seen.given(), [A, A_V1]);
}

#[test]
fn asking_again_is_answered_again_but_learned_once() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(A_V1)]);
    stream.asks(ads::CDS, &[A]);
    let seen = stream.asks(ads::CDS, &[A_V1]);
    assert_eq!((seen.given(), seen.asks.len()), (vec![A_V1], 0));
}

#[test]
fn what_the_workload_is_known_to_use_comes_with_the_first_answer() {
    let mut stream = Stream::new(&[a()]);
    stream.asks(ads::CDS, &[]);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(A), cluster(B)]);
    assert_eq!(
        (seen.given(), seen.subscribed(), seen.asks.len()),
        (vec![A], vec![A], 0)
    );
}

#[test]
fn port_0_stands_for_every_port() {
    let every = ServicePort::new("a.shop.svc.cluster.local", 0);
    let mut stream = Stream::new(&[every]);
    stream.asks(ads::CDS, &[]);
    let seen = stream.pushes(
        ads::CDS,
        "c1",
        &[cluster(A), cluster(A_OTHER_PORT), cluster(B)],
    );
    assert_eq!(seen.given(), [A, A_OTHER_PORT]);
}

#[test]
fn what_another_pod_learned_is_given_unasked_and_once() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    let seen = Seen::of(stream.session.admit([a()]));
    assert_eq!(
        (seen.given(), seen.subscribed(), seen.asks.len()),
        (vec![A], vec![A], 0)
    );
    assert!(stream.session.admit([a()]).is_empty());
}

#[test]
fn what_is_admitted_before_istiod_answers_waits_for_it() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    assert!(stream.session.admit([a()]).is_empty());
    assert_eq!(stream.pushes(ads::CDS, "c1", &[cluster(A)]).given(), [A]);
}

#[test]
fn a_push_about_held_clusters_is_acknowledged_without_the_proxy() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    let seen = stream.pushes(
        ads::CDS,
        "c2",
        &[cluster_with(A, |c| c.alt_stat_name = "new".into())],
    );
    assert!(seen.to_proxy.is_empty());
    assert_eq!(seen.acknowledged(), [("c2", false)]);
    // And what is given later is the later one.
    let seen = stream.asks(ads::CDS, &[A]);
    let any = seen.to_proxy[0].resources[0].resource.clone().unwrap();
    assert_eq!(
        cds::Cluster::decode(&*any.value).unwrap().alt_stat_name,
        "new"
    );
}

#[test]
fn a_push_of_the_same_again_costs_the_proxy_nothing() {
    let mut stream = Stream::started(&[a()], &[cluster(A), cluster(B)]);
    let seen = stream.pushes(ads::CDS, "c2", &[cluster(A), cluster(B)]);
    assert!(seen.to_proxy.is_empty());
    assert_eq!(seen.acknowledged(), [("c2", false)]);
}

#[test]
fn a_held_cluster_that_vanishes_is_not_the_proxys_business() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    let seen = stream.push(ads::CDS, "c2", &[], &[A]);
    assert!(seen.to_proxy.is_empty());
    assert_eq!(seen.acknowledged(), [("c2", false)]);
}

#[test]
fn an_asked_for_cluster_that_vanishes_leaves_a_stand_in_until_it_is_back() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::CDS, &[A]);
    let seen = stream.push(ads::CDS, "c2", &[], &[A]);
    assert_eq!((seen.given(), seen.removed()), (vec![A], vec![]));
    assert_eq!(seen.to_proxy[0].resources[0].resource, stand_in(A));
    let seen = stream.pushes(ads::CDS, "c3", &[cluster(A)]);
    assert_eq!((seen.given(), seen.asks.len()), (vec![A], 0));
}

#[test]
fn an_admitted_cluster_that_vanishes_goes_and_comes_back_by_itself() {
    let mut stream = Stream::started(&[a()], &[cluster(A)]);
    assert_eq!(stream.push(ads::CDS, "c2", &[], &[A]).removed(), [A]);
    assert_eq!(stream.pushes(ads::CDS, "c3", &[cluster(A)]).given(), [A]);
}

#[test]
fn an_unknown_name_is_answered_and_given_as_soon_as_it_is_there() {
    let mut stream = Stream::started(&[], &[cluster(B)]);
    let seen = stream.asks(ads::CDS, &[A]);
    assert_eq!(
        (seen.given(), seen.asks.len(), seen.to_istiod.len()),
        (vec![A], 0, 0)
    );
    assert_eq!(seen.to_proxy[0].resources[0].resource, stand_in(A));
    assert_eq!(stream.session.summary().unknown, 1);
    let seen = stream.pushes(ads::CDS, "c2", &[cluster(A)]);
    assert_eq!((seen.given(), seen.asks.len()), (vec![A], 1));
    assert_eq!(stream.session.summary().unknown, 0);
}

#[test]
fn a_subset_that_is_not_there_brings_no_others_along() {
    // What came along unasked would never be asked for, nor learned, nor kept up to date.
    let none = "outbound|80|v9|a.shop.svc.cluster.local";
    let mut stream = Stream::started(&[], &[cluster(A)]);
    assert_eq!(stream.asks(ads::CDS, &[none]).given(), [none]);
    let seen = stream.asks(ads::CDS, &[A]);
    assert_eq!((seen.given(), seen.asks.len()), (vec![A], 1));
}

#[test]
fn unknown_names_are_answered_but_only_so_many_are_remembered() {
    let mut stream = Stream::started(&[], &[cluster(B)]);
    let names: Vec<_> = (0..=MOST_UNKNOWN_NAMES)
        .map(|i| format!("outbound|80||x{i}"))
        .collect();
    let request = DeltaRequest {
        type_url: ads::CDS.into(),
        subscribe: names,
        ..Default::default()
    };
    let seen = Seen::of(stream.session.on_request(&request.encode()).unwrap());
    assert_eq!(seen.given().len(), MOST_UNKNOWN_NAMES + 1);
    assert_eq!(stream.session.summary().unknown, MOST_UNKNOWN_NAMES);
    let endless = format!("outbound|80||{}", "x".repeat(MOST_NAME_BYTES));
    assert!(stream.asks(ads::CDS, &[&endless]).given().is_empty());
}

#[test]
fn a_proxy_that_comes_back_with_more_known_names_than_the_bound_is_served() {
    let names: Vec<_> = (0..=MOST_UNKNOWN_NAMES)
        .map(|i| format!("outbound|80||x{i}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &names);
    let clusters: Vec<_> = names.iter().map(|n| cluster(n)).collect();
    let seen = stream.pushes(ads::CDS, "c1", &clusters);
    assert_eq!(
        (seen.given().len(), stream.session.summary().unknown),
        (names.len(), 0)
    );
}

#[test]
fn asking_and_giving_up_leaves_nothing_behind() {
    let mut stream = Stream::started(&[], &[cluster(B)]);
    for i in 0..100 {
        let name = format!("outbound|80||x{i}");
        stream.asks(ads::CDS, &[&name]);
        let seen = stream.request(&pb::DeltaDiscoveryRequest {
            type_url: ads::CDS.into(),
            resource_names_unsubscribe: vec![name.clone()],
            ..Default::default()
        });
        assert_eq!(seen.removed(), [name]);
    }
    let session = &stream.session;
    assert!(session.admitted.is_empty() && session.asked.is_empty() && session.unknown.is_empty());
    assert!(session.clusters.proxy.is_empty());
}

#[test]
fn an_acknowledgement_that_asks_goes_up_without_the_question() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    let given = stream.pushes(ads::CDS, "c1", &[cluster(A)]);
    let seen = stream.request(&pb::DeltaDiscoveryRequest {
        type_url: ads::CDS.into(),
        response_nonce: given.to_proxy[0].nonce.clone(),
        resource_names_subscribe: vec![A.into()],
        ..Default::default()
    });
    assert_eq!(
        (seen.acknowledged(), seen.given()),
        (vec![("c1", false)], vec![A])
    );
    assert_eq!(seen.subscribed(), [A], "for endpoints only");
}

#[test]
fn what_came_in_a_refused_push_is_still_removed_when_it_goes() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    let given = stream.pushes(ads::CDS, "c1", &[cluster("one"), cluster("bad")]);
    stream.refuses(&given.to_proxy[0]);
    assert_eq!(
        stream.push(ads::CDS, "c2", &[], &["one"]).removed(),
        ["one"]
    );
    stream.asks(ads::LDS, &[]);
    let given = stream.pushes(ads::LDS, "l1", &[http_listener("l", "80")]);
    stream.refuses(&given.to_proxy[0]);
    assert_eq!(stream.push(ads::LDS, "l2", &[], &["l"]).removed(), ["l"]);
}

#[test]
fn a_refused_cluster_is_refused_to_istiod_and_not_taken_for_held() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    let given = stream.asks(ads::CDS, &[A]);
    let seen = stream.refuses(&given.to_proxy[0]);
    assert_eq!(
        (seen.acknowledged(), &*seen.nacks),
        (vec![("c1", true)], &["broken".into()][..])
    );
    assert_eq!(stream.pushes(ads::CDS, "c2", &[cluster(A)]).given(), [A]);
}

#[test]
fn one_istiod_response_is_acknowledged_once() {
    let mut stream = Stream::new(&[a()]);
    stream.asks(ads::CDS, &[]);
    let given = stream.pushes(ads::CDS, "c1", &[cluster(A)]);
    assert_eq!(stream.acks(&given.to_proxy[0]).acknowledged().len(), 1);
    assert_eq!(stream.acks(&given.to_proxy[0]).acknowledged().len(), 0);
    let on_demand = stream.asks(ads::CDS, &[A]);
    assert_eq!(stream.acks(&on_demand.to_proxy[0]).acknowledged().len(), 0);
}

#[test]
fn types_that_are_not_trimmed_pass_byte_for_byte() {
    let mut stream = Stream::new(&[]);
    let request = pb::DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: "n".into(),
            ..Default::default()
        }),
        type_url: "type.googleapis.com/istio.networking.nds.v1.NameTable".into(),
        ..Default::default()
    };
    let raw: Bytes = request.encode_to_vec().into();
    assert_eq!(
        stream.session.on_request(&raw).unwrap(),
        [Output::ToIstiod(raw.clone())]
    );
    let mut answer = pb::DeltaDiscoveryResponse {
        type_url: request.type_url.clone(),
        nonce: "n1".into(),
        ..Default::default()
    }
    .encode_to_vec();
    wire::put_bytes(&mut answer, 777, b"a field nobody knows");
    let raw: Bytes = answer.into();
    assert_eq!(
        stream.session.on_response(&raw).unwrap(),
        [Output::ToProxy(raw.clone())]
    );
    // The node went up in that message and does not go again.
    assert_eq!(
        stream
            .session
            .on_request(
                &DeltaRequest {
                    type_url: ads::CDS.into(),
                    ..Default::default()
                }
                .encode()
            )
            .map(Seen::of)
            .unwrap()
            .to_istiod[0]
            .node,
        None
    );
}

#[test]
fn nonsense_ends_the_stream_with_an_error() {
    let mut stream = Stream::new(&[]);
    assert!(
        stream
            .session
            .on_request(&Bytes::from_static(&[0xff]))
            .is_err()
    );
    assert!(
        stream
            .session
            .on_response(&Bytes::from_static(&[0x0b]))
            .is_err()
    );
}
