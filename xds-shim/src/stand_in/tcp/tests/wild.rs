//! Wildcard listeners that lead connections inside.

use super::matching::{Spoken, chain_of};
use super::*;

fn http_inspector(mut listener: Listener) -> Listener {
    listener.listener_filters = vec![ListenerFilter {
        name: "http_inspector".into(),
        ..Default::default()
    }];
    listener
}

fn auto(name: &str, address: &str, port: u16) -> Listener {
    let mut listener = http_inspector(service(name, address, port));
    listener.default_filter_chain = listener.filter_chains.pop();
    listener
}

fn wild(port: u16) -> Listener {
    let mut http = chain("", &proxy("x"));
    http.filter_chain_match = Some(FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..Default::default()
    });
    let mut listener = http_inspector(service("x", "0.0.0.0", port));
    listener.filter_chains = vec![http];
    listener.default_filter_chain = Some(chain("PassthroughFilterChain", &proxy("y")));
    listener
}

fn wildcards(connections: &Connections) -> Vec<Listener> {
    let wildcards = connections.wildcards(&config()).unwrap();
    let decode = |(name, raw): (&str, Vec<u8>)| {
        let listener = Listener::decode(payload(&raw).unwrap()).unwrap();
        assert_eq!(listener.name, name);
        listener
    };
    wildcards.into_iter().map(decode).collect()
}

#[test]
fn what_sniffs_alike_is_led_inside_and_nothing_else_is_changed() {
    let listeners = [
        auto("a", "10.0.0.1", 80),
        service("tcp", "10.0.0.2", 80),
        auto("b", "10.0.0.3", 81),
        wild(80),
        virtual_outbound(),
    ];
    let connections = with(&listeners);
    assert_eq!(
        held(&connections, Way::Inside),
        ["10.0.0.1_80", "10.0.0.3_81"]
    );
    assert!(
        !connections.holds("10.0.0.2_80"),
        "the server may speak first"
    );
    let outer = outer(&connections);
    assert_eq!(chain_for(&outer, &to("10.0.0.3", 81)), form::INSIDE);
    assert_ne!(chain_for(&outer, &to("10.0.0.1", 80)), form::INSIDE);
    let [wild] = &*wildcards(&connections) else {
        panic!("not one wildcard listener");
    };
    let find = |address: &str, spoken: Spoken| chain_of(wild, &to(address, 80), spoken);
    for spoken in [Spoken::Http1, Spoken::Http2, Spoken::Bytes, Spoken::Tls] {
        let inside = find("10.0.0.1", spoken);
        assert_eq!(inside.as_deref(), Some(form::INSIDE), "{spoken:?}");
    }
    for (spoken, chain) in [
        (Spoken::Http1, Some("lazymesh-http")),
        (Spoken::Http2, Some("lazymesh-http")),
        (Spoken::Bytes, None),
        (Spoken::Tls, None),
    ] {
        for address in ["10.0.0.2", "10.0.0.3", "10.9.9.9", "fd00::1"] {
            assert_eq!(find(address, spoken).as_deref(), chain, "{spoken:?}");
        }
    }
}

/// Naming a chain, or taking ours away, would end connections.
#[test]
fn chains_stay_as_they_are() {
    let mut connections = with(&[wild(80), virtual_outbound()]);
    let [named] = &*wildcards(&connections) else {
        panic!("not one wildcard listener");
    };
    let mut as_it_came = named.clone();
    assert_eq!(as_it_came.filter_chains[0].name, "lazymesh-http");
    as_it_came.filter_chains[0].name.clear();
    assert_eq!(as_it_came, wild(80));
    let a = auto("a", "10.0.0.1", 80);
    connections.put(&a.name, kind(&a));
    connections.settle();
    let led = wildcards(&connections);
    assert_eq!(led[0].filter_chains[..1], named.filter_chains);
    assert_eq!(led[0].filter_chains.len(), 2);
    assert_eq!(led[0].default_filter_chain, named.default_filter_chain);
    connections.remove(&a.name);
    connections.settle();
    let now = wildcards(&connections);
    assert_eq!(now[0].filter_chains, led[0].filter_chains);
    let chain = chain_of(&now[0], &to("10.0.0.1", 80), Spoken::Http1);
    assert_eq!(chain.as_deref(), Some("lazymesh-http"));
}

#[test]
fn another_wildcard_listener_leads_nothing() {
    let cases: [Case<'_>; 7] = [
        ("it does not sniff", &|l| l.listener_filters.clear()),
        ("it sniffs otherwise", &|l| {
            l.listener_filters.push(ListenerFilter::default());
        }),
        ("it waits otherwise", &|l| {
            l.listener_filters_timeout = Some(ProtoDuration {
                seconds: 1,
                nanos: 0,
            });
        }),
        ("two chains", &|l| {
            let one = l.filter_chains[0].clone();
            l.filter_chains.push(one);
        }),
        ("a chain by address", &|l| {
            let matches = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
            matches.address_suffix = "x".into();
        }),
        ("no default chain", &|l| l.default_filter_chain = None),
        ("a matcher", &|l| {
            l.filter_chain_matcher = Some(Default::default());
        }),
    ];
    for (what, change) in cases {
        let mut wild = wild(80);
        change(&mut wild);
        let connections = with(&[auto("a", "10.0.0.1", 80), wild, virtual_outbound()]);
        assert_eq!(connections.held().count(), 0, "{what}");
        let chains = wildcards(&connections);
        let ours = |l: &Listener| l.filter_chain_matcher.is_some();
        assert!(!chains.iter().any(ours), "{what}");
    }
    let two = with(&[
        auto("a", "10.0.0.1", 80),
        wild(80),
        Listener {
            name: "other".into(),
            ..wild(80)
        },
        virtual_outbound(),
    ]);
    assert_eq!(two.held().count(), 0);
}
