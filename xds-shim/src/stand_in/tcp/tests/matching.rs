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

/// The name of the filter chain that takes a connection.
pub(super) fn chain_for(listener: &Listener, destination: &Destination) -> String {
    let matcher = listener.filter_chain_matcher.as_ref().unwrap();
    let chain = find(matcher, destination).unwrap();
    let known = listener.filter_chains.iter().filter(|c| c.name == chain);
    assert_eq!(known.count(), 1, "{chain}");
    chain
}

fn find(matcher: &Matcher, destination: &Destination) -> Option<String> {
    let found = match &matcher.matcher_type {
        Some(MatcherType::MatcherTree(tree)) => {
            let input = tree.input.as_ref().unwrap();
            match tree.tree_type.as_ref().unwrap() {
                TreeType::ExactMatchMap(map) => {
                    assert!(type_of(input).ends_with(".DestinationPortInput"));
                    assert!(!map.map.is_empty());
                    map.map.get(&destination.port.to_string()).cloned()
                }
                TreeType::CustomMatch(custom) => {
                    assert!(type_of(input).ends_with(".DestinationIPInput"));
                    by_address(custom, destination.address)
                }
                other => panic!("{other:?}"),
            }
        }
        None => None,
        other => panic!("{other:?}"),
    };
    match found {
        Some(found) => then(&found, destination),
        None => matcher
            .on_no_match
            .as_ref()
            .and_then(|m| then(m, destination)),
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

fn then(on_match: &OnMatch, destination: &Destination) -> Option<String> {
    match on_match.on_match.as_ref().unwrap() {
        Then::Matcher(matcher) => find(matcher, destination),
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
