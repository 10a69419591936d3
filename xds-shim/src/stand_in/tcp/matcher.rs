//! A `filter_chain_matcher`: by port, then by address, to the name of a filter chain.
//!
//! Written on the wire, in order: prost would write its maps in any order, and equal matchers must be
//! equal bytes. All addresses of a chain at a port are the ranges of one `IPMatcher`: 90 bytes each in
//! Envoy, where an entry each in a map would be six times that. Field numbers:
//! xds/type/matcher/v3/matcher.proto and ip.proto, xds/core/v3/extension.proto and cidr.proto.

use crate::wire;
use ipnet::IpNet;
use std::collections::BTreeMap;

const BY_PORT: (&str, &str) = (
    "envoy.matching.inputs.destination_port",
    "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput",
);
const BY_ADDRESS: (&str, &str) = (
    "envoy.matching.inputs.destination_ip",
    "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput",
);
const BY_TRANSPORT: (&str, &str) = (
    "envoy.matching.inputs.transport_protocol",
    "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput",
);
const BY_APPLICATION: (&str, &str) = (
    "envoy.matching.inputs.application_protocol",
    "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput",
);
const RANGES: (&str, &str) = (
    "envoy.matching.custom_matchers.ip_range_matcher",
    "type.googleapis.com/xds.type.matcher.v3.IPMatcher",
);
const STRING: &str = "type.googleapis.com/google.protobuf.StringValue";

/// Which chain takes a connection.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// An encoded `OnMatch` for everything else.
    rest: Vec<u8>,
    pub(super) ports: BTreeMap<u16, Port<'a>>,
}

/// Which chain takes a connection to a port.
#[derive(Debug)]
pub(super) enum Port<'a> {
    /// One chain, whatever the address.
    Whole(&'a str),
    /// By chain, the addresses it takes. No address twice.
    Addresses(BTreeMap<&'a str, Vec<IpNet>>),
}

impl<'a> Table<'a> {
    /// All goes to `rest`.
    pub(super) fn new(rest: Vec<u8>) -> Self {
        Self {
            rest,
            ports: BTreeMap::new(),
        }
    }

    /// An address at a port, unless the whole port is taken.
    pub(super) fn add(&mut self, port: u16, chain: &'a str, address: IpNet) {
        let none = || Port::Addresses(BTreeMap::new());
        if let Port::Addresses(by_chain) = self.ports.entry(port).or_insert_with(none) {
            by_chain.entry(chain).or_default().push(address);
        }
    }

    /// An encoded `Matcher`: on_no_match = 3.
    pub(super) fn encode(&self) -> Vec<u8> {
        let ports = self.ports.iter().map(|(port, then)| {
            let then = match then {
                Port::Whole(name) => chain(name),
                Port::Addresses(by_chain) => further(&by_address(by_chain, &self.rest)),
            };
            (port.to_string(), then)
        });
        let mut out = exactly(BY_PORT, ports);
        wire::put_bytes(&mut out, 3, &self.rest);
        out
    }
}

/// An encoded `Matcher` by address: matcher_tree = 2 with input = 1 and custom_match = 4, an IPMatcher
/// with range_matchers = 1 with ranges = 1, on_match = 2; on_no_match = 3.
pub(super) fn by_address(by_chain: &BTreeMap<&str, Vec<IpNet>>, rest: &[u8]) -> Vec<u8> {
    let mut matchers = Vec::new();
    for (name, addresses) in by_chain {
        let mut matcher = Vec::new();
        for range in IpNet::aggregate(addresses) {
            wire::put_bytes(&mut matcher, 1, &cidr(range));
        }
        wire::put_bytes(&mut matcher, 2, &chain(name));
        wire::put_bytes(&mut matchers, 1, &matcher);
    }
    let mut out = Vec::new();
    if !by_chain.is_empty() {
        let mut tree = message(1, &extension(BY_ADDRESS, &[]));
        wire::put_bytes(&mut tree, 4, &extension(RANGES, &matchers));
        wire::put_bytes(&mut out, 2, &tree);
    }
    // Said in every matcher: what an inner one does not take is not looked for in the outer one.
    wire::put_bytes(&mut out, 3, rest);
    out
}

/// An encoded `OnMatch` that leads connections of this transport and one of these application protocols
/// to a chain, and others to none: they take the default chain.
pub(super) fn by_protocol(transport: &str, applications: &[&str], name: &str) -> Vec<u8> {
    // The input is a list, each protocol in quotes.
    let quoted = applications.iter().map(|a| (format!("'{a}'"), chain(name)));
    let application = message(1, &exactly(BY_APPLICATION, quoted));
    let transport = [(transport.to_owned(), application)];
    message(1, &exactly(BY_TRANSPORT, transport.into_iter()))
}

/// An encoded `Matcher`: matcher_tree = 2 with input = 1 and exact_match_map = 2 with map = 1 (key = 1,
/// value = 2). An empty map is refused: it is left out then.
fn exactly(input: (&str, &str), entries: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut map = Vec::new();
    for (key, then) in entries {
        let mut entry = message(1, key.as_bytes());
        wire::put_bytes(&mut entry, 2, &then);
        wire::put_bytes(&mut map, 1, &entry);
    }
    if map.is_empty() {
        return map;
    }
    let mut tree = message(1, &extension(input, &[]));
    wire::put_bytes(&mut tree, 2, &map);
    message(2, &tree)
}

/// An encoded `Matcher.OnMatch` with another matcher: matcher = 1.
pub(super) fn further(matcher: &[u8]) -> Vec<u8> {
    message(1, matcher)
}

/// An encoded `Matcher.OnMatch` with an action: action = 2, a chain's name as a StringValue.
pub(super) fn chain(name: &str) -> Vec<u8> {
    message(2, &extension((name, STRING), &message(1, name.as_bytes())))
}

/// An encoded `TypedExtensionConfig`: name = 1, typed_config = 2, an Any with type_url = 1, value = 2.
fn extension((name, type_url): (&str, &str), value: &[u8]) -> Vec<u8> {
    let mut any = message(1, type_url.as_bytes());
    if !value.is_empty() {
        wire::put_bytes(&mut any, 2, value);
    }
    let mut out = message(1, name.as_bytes());
    wire::put_bytes(&mut out, 2, &any);
    out
}

/// An encoded `CidrRange`: address_prefix = 1, prefix_len = 2, a UInt32Value with value = 1.
fn cidr(range: IpNet) -> Vec<u8> {
    let mut out = message(1, range.addr().to_string().as_bytes());
    // At most 128: the tag of an integer in field 1, and one byte or two.
    let length = range.prefix_len();
    let value: &[u8] = match length {
        0 => &[],
        128.. => &[8, 0x80, 1],
        _ => &[8, length],
    };
    wire::put_bytes(&mut out, 2, value);
    out
}

/// A message with one length-delimited field.
fn message(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, payload);
    out
}
