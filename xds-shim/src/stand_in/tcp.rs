//! TCP listeners of services, and what stands for them in `virtualOutbound`.
//!
//! istiod makes one listener for each address and port of a TCP service. Those that differ from one
//! another only in address, name and cluster are *plain*. Without its listener a connection comes to
//! `virtualOutbound`, where one filter chain for each form of plain listeners takes it: the listener's
//! own chain, but the cluster is picked by the connection's destination, and asked for on demand under
//! its name, [`Destination::name`].
//!
//! Which connections these are is said by a `filter_chain_matcher`, by port and address exactly:
//! everything else goes where istiod's own chains send it. Envoy takes a changed matcher in place, and
//! a connection stays with its chain as long as that is the same byte for byte. So the chains never
//! change while they are in use, and the matcher has all plain listeners, given or not: a connection
//! to one that is given never comes to `virtualOutbound`.
//!
//! Field numbers: envoy/config/listener/v3/listener.proto and listener_components.proto.

mod form;
mod matcher;
mod outer;

use crate::cluster::payload;
use crate::listener::OnDemandConfig;
use crate::wire::{self, Error};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use form::Form;
pub use outer::Outer;

/// The beginning of the name of a connection's destination: `lazytcp|PORT|ADDRESS`.
const CONNECTION: &str = "lazytcp|";

/// Ports that sidecars keep for themselves: a connection to one may meet a listener that istiod does
/// not tell of (15021, 15090 are in the bootstrap).
const RESERVED: RangeInclusive<u16> = 15_000..=15_099;

/// How many plain listeners of one form are worth a chain.
const FEWEST: usize = 2;

/// How many chains there may be. A mesh has one or two forms; each with an idle timeout of its own is
/// one more.
const MOST_CHAINS: usize = 16;

/// How many plain listeners are held at the most; the others are given as they come. 90 bytes each in
/// Envoy, 23 on the wire whenever one comes or goes.
const MOST_HELD: usize = 20_000;

/// What a connection was made to. In order of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Its port.
    pub port: u16,
    /// Its address; never an IPv4 address in the form of an IPv6 one.
    pub address: IpAddr,
}

impl Destination {
    /// For an address and a port.
    pub fn new(address: IpAddr, port: u16) -> Self {
        let address = address.to_canonical();
        Self { port, address }
    }

    /// The name it is asked for by.
    pub fn name(&self) -> String {
        format!("{CONNECTION}{}|{}", self.port, self.address)
    }

    /// Takes such a name apart; `None` for names that are not ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (port, address) = name.strip_prefix(CONNECTION)?.split_once('|')?;
        // Only as Envoy writes it: a name is bound to one destination, and a destination to one name.
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse().ok().filter(|_| digits)?;
        Some(Self::new(address.parse().ok()?, port))
    }

    /// Whether a name claims to be ours, be it one or not: none such may stay without an answer.
    pub fn is_name(name: &str) -> bool {
        name.starts_with(CONNECTION)
    }
}

/// A plain listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainTcp {
    /// The listener's name.
    pub listener: Box<str>,
    /// What it takes connections to.
    pub destination: Destination,
    /// The cluster it leads them to, one that may be held.
    pub cluster: Box<str>,
    /// What it has in common with others.
    pub form: Form,
}

/// What a listener is for connections that come to `virtualOutbound`. It depends on the listener alone.
#[derive(Debug, Clone)]
pub enum Kind {
    /// It can be held.
    Plain(Arc<PlainTcp>),
    /// It is `virtualOutbound`, and can have chains of ours.
    Outer(Arc<Outer>),
    /// It takes connections to any address of these ports that no other listener takes. Without its
    /// own listener a connection to such a port never comes to `virtualOutbound`.
    Wildcard(BTreeSet<u16>),
    /// None of these.
    Other,
}

impl Kind {
    /// Looks at a listener, in its encoded `Resource`, as istiod sent it.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn of(name: &str, resource: &[u8]) -> Result<Self, Error> {
        let listener = payload(resource)?;
        if let Some(outer) = Outer::parse(resource, listener)? {
            return Ok(Self::Outer(Arc::new(outer)));
        }
        let wildcards = wildcards(listener)?;
        if !wildcards.is_empty() {
            return Ok(Self::Wildcard(wildcards));
        }
        let plain = form::plain(name, listener)?;
        Ok(plain.map_or(Self::Other, |plain| Self::Plain(Arc::new(plain))))
    }
}

/// Ports of a listener at no address in particular. Listener: address = 2, additional_addresses = 33
/// with address = 1.
fn wildcards(listener: &[u8]) -> Result<BTreeSet<u16>, Error> {
    let mut addresses: Vec<&[u8]> = wire::last(listener, 2)?.into_iter().collect();
    for additional in wire::each(listener, 33) {
        addresses.extend(wire::last(additional?, 1)?);
    }
    let mut ports = BTreeSet::new();
    for address in addresses {
        ports.extend(
            socket_address(address)?
                .filter(|(ip, _)| ip.is_unspecified())
                .map(|(_, port)| port),
        );
    }
    Ok(ports)
}

/// The TCP address in a core.v3.Address (socket_address = 1 with protocol = 1, address = 2,
/// port_value = 3).
fn socket_address(address: &[u8]) -> Result<Option<(IpAddr, u16)>, Error> {
    let Some(socket) = wire::last(address, 1)? else {
        return Ok(None);
    };
    let tcp = wire::varint(socket, 1)? == 0;
    let ip = wire::string(socket, 2)?.parse::<IpAddr>().ok();
    let port = u16::try_from(wire::varint(socket, 3)?).ok();
    Ok(ip.zip(port).filter(|_| tcp))
}

/// The listeners of one stream, as far as held TCP listeners go.
#[derive(Debug, Default)]
pub struct Connections {
    outer: Option<(Box<str>, Arc<Outer>)>,
    plain: BTreeMap<Destination, Arc<PlainTcp>>,
    destinations: BTreeMap<Box<str>, Destination>,
    wildcards: BTreeMap<Box<str>, BTreeSet<u16>>,
    /// How many plain listeners there are of each form, in order of coming, and whether it has a
    /// chain. A chain stays as long as there is one: connections are in it.
    forms: Vec<Members>,
}

#[derive(Debug)]
struct Members {
    form: Form,
    count: usize,
    chain: bool,
}

impl Connections {
    /// A listener came, or is another one now.
    pub fn put(&mut self, name: &str, kind: Kind) {
        if let Kind::Plain(plain) = &kind
            && self.destinations.get(name) == Some(&plain.destination)
            && self.plain.get(&plain.destination) == Some(plain)
        {
            // The same again: its form must not lose its chain for it.
            return;
        }
        self.remove(name);
        match kind {
            Kind::Plain(plain) => self.put_plain(name, plain),
            Kind::Outer(outer) => self.outer = Some((name.into(), outer)),
            Kind::Wildcard(ports) => {
                self.wildcards.insert(name.into(), ports);
            }
            Kind::Other => {}
        }
    }

    fn put_plain(&mut self, name: &str, plain: Arc<PlainTcp>) {
        if self.plain.len() >= MOST_HELD {
            return;
        }
        // Envoy takes the first of two listeners for one address and refuses the other.
        if let Entry::Vacant(free) = self.plain.entry(plain.destination) {
            self.destinations.insert(name.into(), plain.destination);
            match self.forms.iter_mut().find(|m| m.form == plain.form) {
                Some(members) => members.count += 1,
                None => self.forms.push(Members {
                    form: plain.form.clone(),
                    count: 1,
                    chain: false,
                }),
            }
            free.insert(plain);
        }
    }

    /// A listener went.
    pub fn remove(&mut self, name: &str) {
        self.wildcards.remove(name);
        if self.outer.as_ref().is_some_and(|(n, _)| **n == *name) {
            self.outer = None;
        }
        let Some(destination) = self.destinations.remove(name) else {
            return;
        };
        if let Some(plain) = self.plain.remove(&destination) {
            for members in &mut self.forms {
                members.count -= usize::from(members.form == plain.form);
            }
            self.forms.retain(|members| members.count > 0);
        }
    }

    /// Decides which forms have a chain. To be called after the last of a push's listeners, and before
    /// [`Self::holds`], [`Self::held`] and [`Self::outer`].
    pub fn settle(&mut self) {
        let mut chains = self.forms.iter().filter(|m| m.chain).count();
        for members in &mut self.forms {
            if !members.chain && members.count >= FEWEST && chains < MOST_CHAINS {
                members.chain = true;
                chains += 1;
            }
        }
    }

    /// Whether a connection to what this listener takes is taken by a chain of ours when the proxy does
    /// not have the listener. If not, it must be given: ahead of a wildcard listener of its port, and
    /// no later than [`Self::outer`].
    pub fn holds(&self, listener: &str) -> bool {
        let plain = self.destinations.get(listener);
        plain
            .and_then(|d| self.plain.get(d))
            .is_some_and(|plain| self.stands_for(plain))
    }

    fn stands_for(&self, plain: &PlainTcp) -> bool {
        let port = plain.destination.port;
        let chain = self.forms.iter().any(|m| m.chain && m.form == plain.form);
        let shadowed = self.wildcards.values().any(|ports| ports.contains(&port));
        let takes = self
            .outer
            .as_ref()
            .is_some_and(|(_, outer)| outer.takes(plain));
        chain && takes && !shadowed
    }

    /// All listeners that can be held, in order of their destinations.
    pub fn held(&self) -> impl Iterator<Item = &PlainTcp> {
        let plain = self.plain.values().map(|plain| &**plain);
        plain.filter(|plain| self.stands_for(plain))
    }

    /// The plain listener for a destination that was asked for. `None`: it has gone meanwhile, and the
    /// connection is one like all that no listener takes, see [`Self::rest`].
    pub fn find(&self, destination: &Destination) -> Option<&PlainTcp> {
        self.plain.get(destination).map(|plain| &**plain)
    }

    /// The cluster that a connection no listener takes is led to; `None` if that is not one cluster.
    pub fn rest(&self) -> Option<&str> {
        self.outer.as_ref().and_then(|(_, outer)| outer.rest())
    }

    /// `virtualOutbound` with what stands for plain listeners, an encoded `Resource`, and its name.
    /// `None`: there is none that can have chains of ours, or nothing for them to do; then it goes out
    /// as it came. Equal listeners make equal bytes.
    ///
    /// # Errors
    /// When a kept message turns out to be broken after all.
    pub fn outer(&self, config: &OnDemandConfig) -> Result<Option<(&str, Vec<u8>)>, Error> {
        let Some((name, outer)) = &self.outer else {
            return Ok(None);
        };
        let forms = self.forms.iter().filter(|m| m.chain);
        let mut forms: Vec<&Form> = forms.map(|m| &m.form).collect();
        if forms.is_empty() {
            return Ok(None);
        }
        forms.sort_unstable();
        let resource = outer.with(&forms, self.held(), config)?;
        Ok(Some((name, resource)))
    }
}

#[cfg(test)]
mod tests;
