//! What Envoy does with a `filter_chain_matcher`, as far as ours go.

use super::super::Destination;
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::xds::core::v3::TypedExtensionConfig;
use crate::envoy::xds::r#type::matcher::v3::Matcher;
use crate::envoy::xds::r#type::matcher::v3::matcher::matcher_tree::TreeType;
use crate::envoy::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Then;
use crate::envoy::xds::r#type::matcher::v3::matcher::{MatcherType, OnMatch};
use crate::wire;
use ipnet::IpNet;
use prost::Message;
use std::net::IpAddr;

/// What a listener's sniffers find a connection to speak.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    Bytes,
    Tls,
}

impl Spoken {
    fn transport(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            _ => "raw_buffer",
        }
    }

    fn application(self) -> &'static str {
        match self {
            Self::Http1 => "'http/1.1'",
            Self::Http2 => "'h2c'",
            Self::Bytes => "",
            Self::Tls => "'h2','http/1.1'",
        }
    }
}

/// The name of the filter chain that takes a connection nobody sniffed.
pub(crate) fn chain_for(listener: &Listener, destination: &Destination) -> String {
    chain_of(listener, destination, Spoken::Bytes).unwrap()
}

/// The name of the filter chain that takes a connection; `None`: the default one.
pub(crate) fn chain_of(
    listener: &Listener,
    destination: &Destination,
    spoken: Spoken,
) -> Option<String> {
    let matcher = listener.filter_chain_matcher.as_ref().unwrap();
    let chain = find(matcher, destination, spoken)?;
    let known = listener.filter_chains.iter().filter(|c| c.name == chain);
    assert_eq!(known.count(), 1, "{chain}");
    Some(chain)
}

fn find(matcher: &Matcher, destination: &Destination, spoken: Spoken) -> Option<String> {
    let found = match &matcher.matcher_type {
        Some(MatcherType::MatcherTree(tree)) => {
            let input = type_of(tree.input.as_ref().unwrap());
            match tree.tree_type.as_ref().unwrap() {
                TreeType::ExactMatchMap(map) => {
                    assert!(!map.map.is_empty());
                    let value = match input.rsplit('.').next().unwrap() {
                        "DestinationPortInput" => destination.port.to_string(),
                        "TransportProtocolInput" => spoken.transport().to_owned(),
                        "ApplicationProtocolInput" => spoken.application().to_owned(),
                        other => panic!("{other}"),
                    };
                    map.map.get(&value).cloned()
                }
                TreeType::CustomMatch(custom) => {
                    assert!(input.ends_with(".DestinationIPInput"));
                    by_address(custom, destination.address)
                }
                other => panic!("{other:?}"),
            }
        }
        None => None,
        other => panic!("{other:?}"),
    };
    let then_found = |on_match: &OnMatch| then(on_match, destination, spoken);
    match &found {
        Some(found) => then_found(found),
        None => matcher.on_no_match.as_ref().and_then(|m| then_found(m)),
    }
}

/// Envoy's takes the narrowest range; ours do not overlap.
fn by_address(custom: &TypedExtensionConfig, address: IpAddr) -> Option<OnMatch> {
    assert!(type_of(custom).ends_with(".IPMatcher"));
    let matcher = &custom.typed_config.as_ref().unwrap().value;
    let mut found = Vec::new();
    for one in wire::each(matcher, 1).map(Result::unwrap) {
        for range in wire::each(one, 1).map(Result::unwrap) {
            let prefix = wire::string(range, 1).unwrap().parse().unwrap();
            let length = wire::varint(wire::last(range, 2).unwrap().unwrap(), 1).unwrap();
            let range = IpNet::new(prefix, u8::try_from(length).unwrap()).unwrap();
            assert_eq!(range, range.trunc());
            if range.contains(&address) {
                let then = wire::last(one, 2).unwrap().unwrap();
                found.push(OnMatch::decode(then).unwrap());
            }
        }
    }
    assert!(found.len() < 2);
    found.pop()
}

fn then(on_match: &OnMatch, destination: &Destination, spoken: Spoken) -> Option<String> {
    match on_match.on_match.as_ref().unwrap() {
        Then::Matcher(matcher) => find(matcher, destination, spoken),
        Then::Action(action) => {
            assert_eq!(
                type_of(action),
                "type.googleapis.com/google.protobuf.StringValue"
            );
            let value = &action.typed_config.as_ref().unwrap().value;
            let name = wire::string(value, 1).unwrap();
            assert_eq!(name, action.name);
            Some(name.to_owned())
        }
    }
}

fn type_of(extension: &TypedExtensionConfig) -> &str {
    &extension.typed_config.as_ref().unwrap().type_url
}
