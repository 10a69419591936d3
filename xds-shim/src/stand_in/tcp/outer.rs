//! `virtualOutbound`: it takes what no other listener takes, and gets chains of ours.

use super::form::{INSIDE, inside_chain};
use super::matcher::{Port, Table, by_address, chain, further};
use super::{Form, Single, Way};
use crate::listener::{OnDemandConfig, TCP_PROXY_TYPE};
use crate::wire::{self, Error};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `virtualOutbound`, taken apart.
#[derive(Debug)]
pub struct Outer {
    /// The encoded `Resource`.
    resource: Box<[u8]>,
    /// Chains that take a port each, by that port.
    ports: BTreeMap<u16, Box<str>>,
    /// Chains that take ranges of addresses, of all other ports: the fallback of a workload that has settled.
    ranges: BTreeMap<Box<str>, Ranges>,
    /// The chain that takes what no other takes.
    catch_all: Box<str>,
    /// The cluster that one leads everything to, if that is all it does.
    rest: Option<Box<str>>,
    /// What else it has that a connection could notice.
    beside: Vec<u8>,
}

/// What a chain takes by address, and the cluster it leads that to, if that is all it does.
#[derive(Debug)]
struct Ranges {
    addresses: Vec<IpNet>,
    cluster: Option<Box<str>>,
}

impl Outer {
    /// Takes it apart. `None` if the listener is not this one, or is not as istiod makes it: nothing
    /// that a connection of a held listener would notice may be in it.
    ///
    /// Listener: name = 1, address = 2, filter_chains = 3, use_original_dst = 4, listener_filters = 9,
    /// listener_filters_timeout = 15, traffic_direction = 16, continue_on_listener_filters_timeout = 17,
    /// default_filter_chain = 25, bind_to_port = 26, filter_chain_matcher = 32,
    /// additional_addresses = 33, max_connections_to_accept_per_socket_event = 34.
    pub(super) fn parse(resource: &[u8], listener: &[u8]) -> Result<Option<Self>, Error> {
        let mut outer = Self {
            resource: resource.into(),
            ports: BTreeMap::new(),
            ranges: BTreeMap::new(),
            catch_all: "".into(),
            rest: None,
            beside: Vec::new(),
        };
        if wire::string(listener, 1)? != "virtualOutbound" {
            return Ok(None);
        }
        let mut restores = false;
        for field in wire::fields(listener) {
            let field = field?;
            match (field.number, field.bytes()) {
                (3, Some(chain)) => {
                    if !outer.add(chain)? {
                        return Ok(None);
                    }
                }
                // BoolValue.value = 1.
                (4, Some(value)) => restores = wire::varint(value, 1)? != 0,
                (9 | 25 | 32, _) => return Ok(None),
                (1 | 2 | 15 | 16 | 17 | 26 | 33 | 34, _) => {}
                _ => outer.beside.extend_from_slice(field.record),
            }
        }
        Ok((restores && !outer.catch_all.is_empty()).then_some(outer))
    }

    /// Takes note of a chain of istiod's; whether the matcher can say when it is used. FilterChain:
    /// filter_chain_match = 1 with destination_port = 8 (a UInt32Value), prefix_ranges = 3; name = 7.
    fn add(&mut self, chain: &[u8]) -> Result<bool, Error> {
        let name = wire::string(chain, 7)?;
        let known = self.ports.values().any(|n| **n == *name)
            || self.ranges.contains_key(name)
            || *self.catch_all == *name;
        if name.is_empty() || known {
            return Ok(false);
        }
        let matches = wire::last(chain, 1)?.unwrap_or_default();
        let (mut port, mut addresses) = (None, Vec::new());
        for field in wire::fields(matches) {
            let field = field?;
            match (field.number, field.bytes()) {
                (8, Some(value)) => port = u16::try_from(wire::varint(value, 1)?).ok(),
                (3, Some(range)) => match cidr(range)? {
                    Some(range) => addresses.push(range),
                    None => return Ok(false),
                },
                _ => return Ok(false),
            }
        }
        match port {
            Some(port) if addresses.is_empty() => {
                Ok(self.ports.insert(port, name.into()).is_none())
            }
            None if !addresses.is_empty() && !self.overlaps(&addresses) => {
                let cluster = only_cluster(chain)?.map(Box::from);
                let ranges = Ranges { addresses, cluster };
                self.ranges.insert(name.into(), ranges);
                Ok(true)
            }
            None if matches.is_empty() && self.catch_all.is_empty() => {
                self.catch_all = name.into();
                self.rest = only_cluster(chain)?.map(Box::from);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether connections to a port are not istiod's own chains' business.
    pub(super) fn leaves(&self, port: u16) -> bool {
        !self.ports.contains_key(&port)
    }

    /// Whether it is like listeners of this form in what a connection could notice.
    pub(super) fn is_alike(&self, form: &Form) -> bool {
        *form.beside == *self.beside
    }

    /// Whether another chain takes one of these addresses: then the narrower range would win.
    fn overlaps(&self, addresses: &[IpNet]) -> bool {
        let mut taken = self.ranges.values().flat_map(|ranges| &ranges.addresses);
        taken.any(|taken| {
            let mut addresses = addresses.iter();
            addresses.any(|one| one.contains(taken) || taken.contains(one))
        })
    }

    /// The cluster that a connection which no port's chain takes is led to.
    pub(super) fn rest(&self, to: IpAddr) -> Option<&str> {
        let takes = |ranges: &&Ranges| ranges.addresses.iter().any(|range| range.contains(&to));
        match self.ranges.values().find(takes) {
            // What it does with a connection a copy of its cluster does not.
            Some(_) => None,
            None => self.rest.as_deref(),
        }
    }

    /// The clusters that ranges of addresses are led to.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = &str> {
        let ranges = self.ranges.values();
        ranges.filter_map(|ranges| ranges.cluster.as_deref())
    }

    /// An encoded `OnMatch` for what neither a port's chain nor one of ours takes.
    fn otherwise(&self) -> Vec<u8> {
        let rest = chain(&self.catch_all);
        if self.ranges.is_empty() {
            return rest;
        }
        let by_chain = self.ranges.iter();
        let by_chain = by_chain.map(|(name, ranges)| (&**name, ranges.addresses.clone()));
        further(&by_address(&by_chain.collect(), &rest))
    }

    /// It with chains of these forms, in order, and the matcher that leads to them. Listener:
    /// filter_chains = 3, filter_chain_matcher = 32; a Resource has the listener in resource = 2 with
    /// value = 2.
    pub(super) fn with<'a>(
        &self,
        forms: &[&Form],
        held: impl Iterator<Item = (&'a Single, Way)>,
        config: &OnDemandConfig,
    ) -> Result<Vec<u8>, Error> {
        let names: Vec<String> = forms.iter().map(|form| form.chain_name()).collect();
        let mut table = Table::new(self.otherwise());
        for (port, chain) in &self.ports {
            table.ports.insert(*port, Port::Whole(chain));
        }
        for (single, way) in held {
            let plain = single.plain.as_ref().filter(|_| way == Way::Cluster);
            let at = plain.map(|plain| forms.binary_search(&&plain.form));
            let chain = match at {
                Some(Ok(at)) => &names[at],
                Some(Err(_)) => continue,
                None => INSIDE,
            };
            let address = IpNet::from(single.destination.address);
            table.add(single.destination.port, chain, address);
        }
        let mut ours = Vec::new();
        for form in forms {
            wire::put_bytes(&mut ours, 3, &form.chain(config)?);
        }
        wire::put_bytes(&mut ours, 3, &inside_chain(config));
        wire::put_bytes(&mut ours, 32, &table.encode());
        let changed = wire::edit_each::<Error>(&self.resource, 2, |any| {
            wire::edit_each(any, 2, |listener| Ok(Some([listener, &ours].concat())))
        })?;
        Ok(changed.unwrap_or_else(|| self.resource.to_vec()))
    }
}

/// A core.v3.CidrRange (address_prefix = 1, prefix_len = 2, a UInt32Value): `None` if it is none.
fn cidr(range: &[u8]) -> Result<Option<IpNet>, Error> {
    let length = match wire::last(range, 2)? {
        Some(length) => wire::varint(length, 1)?,
        None => 0,
    };
    let (address, length) = (wire::string(range, 1)?.parse(), u8::try_from(length));
    let (Ok(address), Ok(length)) = (address, length) else {
        return Ok(None);
    };
    Ok(IpNet::new(address, length).ok().map(|range| range.trunc()))
}

/// The cluster of a chain that is one TCP proxy. FilterChain: filters = 3; Filter: typed_config = 4;
/// TcpProxy: cluster = 2.
fn only_cluster(chain: &[u8]) -> Result<Option<&str>, Error> {
    let mut filters = wire::each(chain, 3);
    let (Some(filter), None) = (filters.next().transpose()?, filters.next()) else {
        return Ok(None);
    };
    let any = wire::last(filter, 4)?.unwrap_or_default();
    if wire::last(any, 1)?.unwrap_or_default() != TCP_PROXY_TYPE {
        return Ok(None);
    }
    let cluster = wire::string(wire::last(any, 2)?.unwrap_or_default(), 2)?;
    Ok((!cluster.is_empty()).then_some(cluster))
}
