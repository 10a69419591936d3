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
const RANGES: (&str, &str) = (
    "envoy.matching.custom_matchers.ip_range_matcher",
    "type.googleapis.com/xds.type.matcher.v3.IPMatcher",
);
const STRING: &str = "type.googleapis.com/google.protobuf.StringValue";

/// Which chain takes a connection.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// The chain for everything else.
    rest: &'a str,
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
    pub(super) fn new(rest: &'a str) -> Self {
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

    /// An encoded `Matcher`: matcher_tree = 2 with input = 1 and exact_match_map = 2 with map = 1 (key
    /// = 1, value = 2); on_no_match = 3.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = Vec::new();
        for (port, then) in &self.ports {
            let mut entry = Vec::new();
            wire::put_string(&mut entry, 1, &port.to_string());
            wire::put_bytes(&mut entry, 2, &self.port(then));
            wire::put_bytes(&mut map, 1, &entry);
        }
        let mut out = Vec::new();
        // A map without entries is refused.
        if !map.is_empty() {
            let mut tree = message(1, &extension(BY_PORT, &[]));
            wire::put_bytes(&mut tree, 2, &map);
            wire::put_bytes(&mut out, 2, &tree);
        }
        wire::put_bytes(&mut out, 3, &chain(self.rest));
        out
    }

    /// An encoded `Matcher.OnMatch` for a port: matcher = 1, which is a matcher_tree = 2 with input = 1 and
    /// custom_match = 4; on_no_match = 3.
    fn port(&self, port: &Port<'_>) -> Vec<u8> {
        let by_chain = match port {
            Port::Whole(name) => return chain(name),
            Port::Addresses(by_chain) => by_chain,
        };
        // IPMatcher: range_matchers = 1 with ranges = 1, on_match = 2.
        let mut matchers = Vec::new();
        for (name, addresses) in by_chain {
            let mut matcher = Vec::new();
            for range in IpNet::aggregate(addresses) {
                wire::put_bytes(&mut matcher, 1, &cidr(range));
            }
            wire::put_bytes(&mut matcher, 2, &chain(name));
            wire::put_bytes(&mut matchers, 1, &matcher);
        }
        let mut tree = message(1, &extension(BY_ADDRESS, &[]));
        wire::put_bytes(&mut tree, 4, &extension(RANGES, &matchers));
        let mut matcher = message(2, &tree);
        // Said here too: what a port's matcher does not take is not looked for in the outer one.
        wire::put_bytes(&mut matcher, 3, &chain(self.rest));
        message(1, &matcher)
    }
}

/// An encoded `Matcher.OnMatch` with an action: action = 2, a chain's name as a StringValue.
fn chain(name: &str) -> Vec<u8> {
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
