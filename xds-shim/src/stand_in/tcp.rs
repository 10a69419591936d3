//! Listeners of one address and port, and what stands for them in `virtualOutbound`.
//!
//! istiod makes one listener for each address and port of a TCP service, and of one whose protocol is
//! to be sniffed. A connection whose listener is held comes to `virtualOutbound`, where a filter chain of
//! ours takes it, and asks on demand for a cluster with the destination's name. There are two ways on:
//!
//! - [`Way::Cluster`], for *plain* listeners, which differ from others in address, name and cluster
//!   only: the chain is the listeners' own, and the answer is a copy of the service's cluster.
//! - [`Way::Inside`], for all others: the answer is a cluster that leads to a copy of the listener
//!   inside Envoy ([`inside`]), with its own listener filters, chains and routes.
//!
//! Where there is a listener at any address for the port, as for every port of an HTTP service, the
//! connection comes to that one instead ([`Wildcard`]). It can lead connections inside too, if it sniffs
//! as the held listener does.
//!
//! Which connections these are is said by a `filter_chain_matcher`, by port and address exactly:
//! everything else goes where istiod's own chains send it. Envoy takes a changed matcher in place, and
//! a connection stays with its chain as long as that is the same byte for byte. So the chains never
//! change while they are in use, and the matcher has all such listeners, given or not: a connection to
//! one that is given never comes to `virtualOutbound`.
//!
//! A chain of istiod's may take ranges of addresses: so does the fallback of a workload that has settled. It takes what ours
//! do not.
//!
//! Field numbers: envoy/config/listener/v3/listener.proto and listener_components.proto.

mod form;
pub mod inside;
mod matcher;
mod outer;
mod wild;

use crate::cluster::{ServicePort, payload};
use crate::listener::OnDemandConfig;
use crate::pool::Alike;
use crate::wire::{self, Error};
use foldhash::quality::RandomState;
use std::borrow::Borrow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use form::Form;
pub use outer::Outer;
pub use wild::{Sniffs, Wildcard};

/// Ports that sidecars keep for themselves: a connection to one may meet a listener that istiod does
/// not tell of (15021, 15090 are in the bootstrap).
const RESERVED: RangeInclusive<u16> = 15_000..=15_099;

/// Those of them that are istiod's and the shim's own, and no sidecar's: services of every mesh.
const CONTROL_PLANE: [u16; 4] = [15_010, 15_012, 15_014, 15_017];

/// Whether a sidecar may keep this port for itself.
fn is_reserved(port: u16) -> bool {
    RESERVED.contains(&port) && !CONTROL_PLANE.contains(&port)
}

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
}

/// How a connection goes on that came to a chain of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By a copy of the service's cluster.
    Cluster,
    /// Through a copy of the listener inside Envoy.
    Inside,
}

impl Way {
    /// The beginning of the names that its chains ask for.
    fn prefix(self) -> &'static str {
        match self {
            Self::Cluster => "lazytcp|",
            Self::Inside => "lazyin|",
        }
    }
}

/// What a connection asks for: `lazytcp|PORT|ADDRESS` or `lazyin|PORT|ADDRESS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// How the chain it is in goes on.
    pub way: Way,
    /// What the connection was made to.
    pub destination: Destination,
}

impl Asked {
    /// The name.
    pub fn name(&self) -> String {
        let Destination { port, address } = self.destination;
        format!("{}{port}|{address}", self.way.prefix())
    }

    /// Takes a name apart; `None` for names that no chain of ours makes.
    pub fn parse(name: &str) -> Option<Self> {
        let way = Self::way(name)?;
        let (port, address) = name.strip_prefix(way.prefix())?.split_once('|')?;
        // Only as Envoy writes it: a destination has one name.
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse().ok().filter(|_| digits)?;
        let destination = Destination::new(address.parse().ok()?, port);
        Some(Self { way, destination })
    }

    /// What a name claims to be by its beginning: none such may stay without an answer.
    pub fn way(name: &str) -> Option<Way> {
        let ways = [Way::Cluster, Way::Inside];
        ways.into_iter().find(|w| name.starts_with(w.prefix()))
    }
}

/// A listener that can be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The listener's name.
    pub listener: Box<str>,
    /// What it takes connections to.
    pub destination: Destination,
    /// The service it is for: the listener is to be given when that is admitted.
    pub service: ServicePort,
    /// What makes it plain, if it is.
    pub plain: Option<Plain>,
    /// Whether a copy of it can take connections inside Envoy.
    pub inside: bool,
    /// How it sniffs what a connection speaks, if it does.
    pub sniffs: Option<Sniffs>,
}

impl Single {
    /// Whether connections to it can go on in this way.
    pub fn can(&self, way: Way) -> bool {
        match way {
            Way::Cluster => self.plain.is_some(),
            Way::Inside => self.inside,
        }
    }
}

/// What is particular about a plain listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The cluster it leads connections to.
    pub cluster: Box<str>,
    /// What it has in common with others.
    pub form: Form,
}

/// What a listener is for connections that come to `virtualOutbound`. It depends on the listener alone.
#[derive(Debug, Clone)]
pub enum Kind {
    /// It can be held.
    Single(Arc<Single>),
    /// It is `virtualOutbound`, and can have chains of ours.
    Outer(Arc<Outer>),
    /// It takes connections to any address of its ports that no other listener takes. Without its
    /// own listener a connection to such a port never comes to `virtualOutbound`.
    Wildcard(Arc<Wildcard>),
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
        if let Some(wildcard) = Wildcard::parse(resource, listener)? {
            return Ok(Self::Wildcard(Arc::new(wildcard)));
        }
        let single = form::single(name, listener)?;
        Ok(single.map_or(Self::Other, |single| Self::Single(Arc::new(single))))
    }
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

/// The listeners of one stream, as far as held ones go.
#[derive(Debug, Default, Clone)]
pub struct Connections {
    outer: Option<(Box<str>, Arc<Outer>)>,
    singles: BTreeMap<Destination, Arc<Single>>,
    /// The same.
    by_name: HashSet<Named>,
    wildcards: BTreeMap<Box<str>, Arc<Wildcard>>,
    /// Which of those have a chain of ours.
    leading: BTreeSet<Box<str>>,
    /// Forms of plain listeners, in order of coming.
    forms: Vec<Members>,
}

/// A listener that can be held, found by its name.
#[derive(Debug, Clone)]
struct Named(Arc<Single>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        &self.0.listener
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.listener.hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.listener == other.0.listener
    }
}

impl Eq for Named {}

/// The plain listeners of a form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Members {
    form: Form,
    count: usize,
    /// Whether it has a chain. A chain stays as long as there is a listener: connections are in it.
    chain: bool,
}

impl Connections {
    /// Names and addresses of what is in.
    fn parts(&self) -> impl Iterator<Item = (&str, usize)> {
        let outer = self.outer.iter();
        let outer = outer.map(|(name, outer)| (&**name, Arc::as_ptr(outer).addr()));
        let wildcards = self.wildcards.iter();
        let wildcards = wildcards.map(|(name, one)| (&**name, Arc::as_ptr(one).addr()));
        let singles = self.singles.values();
        let singles = singles.map(|one| (&*one.listener, Arc::as_ptr(one).addr()));
        outer.chain(wildcards).chain(singles)
    }
}

impl Alike for Connections {
    fn key(&self, hasher: &RandomState) -> u64 {
        let mut state = hasher.build_hasher();
        for part in self.parts() {
            part.hash(&mut state);
        }
        (&self.leading, &self.forms).hash(&mut state);
        state.finish()
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.parts().eq(other.parts())
            && (&self.leading, &self.forms) == (&other.leading, &other.forms)
    }
}

impl Connections {
    /// Whether a listener is in as what it is; for [`Kind::Other`]: whether it is not in.
    pub fn is_in(&self, name: &str, kind: &Kind) -> bool {
        let outer = self.outer.as_ref().filter(|(outer, _)| **outer == *name);
        let wildcard = self.wildcards.get(name);
        match kind {
            Kind::Single(single) => self.singles.get(&single.destination) == Some(single),
            Kind::Outer(new) => outer.is_some_and(|(_, there)| Arc::ptr_eq(there, new)),
            Kind::Wildcard(new) => wildcard.is_some_and(|there| Arc::ptr_eq(there, new)),
            Kind::Other => outer.is_none() && wildcard.is_none() && self.single(name).is_none(),
        }
    }

    /// A listener came, or is another one now.
    pub fn put(&mut self, name: &str, kind: Kind) {
        if self.is_in(name, &kind) {
            // The same again: its form must not lose its chain for it.
            return;
        }
        self.remove(name);
        match kind {
            Kind::Single(single) => self.put_single(single),
            Kind::Outer(outer) => self.outer = Some((name.into(), outer)),
            Kind::Wildcard(wildcard) => {
                self.wildcards.insert(name.into(), wildcard);
            }
            Kind::Other => {}
        }
    }

    fn put_single(&mut self, single: Arc<Single>) {
        if self.singles.len() >= MOST_HELD {
            return;
        }
        // Envoy takes the first of two listeners for one address and refuses the other.
        let Entry::Vacant(free) = self.singles.entry(single.destination) else {
            return;
        };
        self.by_name.insert(Named(Arc::clone(&single)));
        if let Some(plain) = &single.plain {
            match self.forms.iter_mut().find(|m| m.form == plain.form) {
                Some(members) => members.count += 1,
                None => self.forms.push(Members {
                    form: plain.form.clone(),
                    count: 1,
                    chain: false,
                }),
            }
        }
        free.insert(single);
    }

    /// A listener went; what it was, if it could be held.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Single>> {
        self.wildcards.remove(name);
        if self.outer.as_ref().is_some_and(|(n, _)| **n == *name) {
            self.outer = None;
        }
        let Named(gone) = self.by_name.take(name)?;
        self.singles.remove(&gone.destination);
        if let Some(plain) = &gone.plain {
            for members in &mut self.forms {
                members.count -= usize::from(members.form == plain.form);
            }
            self.forms.retain(|members| members.count > 0);
        }
        Some(gone)
    }

    /// Decides which forms have a chain. To be called after the last of a push's listeners, and before
    /// [`Self::holds`], [`Self::held`], [`Self::outer`] and [`Self::wildcards`].
    pub fn settle(&mut self) {
        let mut chains = self.forms.iter().filter(|m| m.chain).count();
        for members in &mut self.forms {
            if !members.chain && members.count >= FEWEST && chains < MOST_CHAINS {
                members.chain = true;
                chains += 1;
            }
        }
        let names = self.wildcards.keys();
        let used = names.filter(|name| self.inside_of(name).next().is_some());
        let used: Vec<_> = used.cloned().collect();
        self.leading.extend(used);
        self.leading
            .retain(|name| self.wildcards.contains_key(name));
    }

    /// The listeners that are held behind this wildcard listener.
    fn inside_of<'a>(&'a self, wildcard: &str) -> impl Iterator<Item = &'a Single> {
        let ports = self.wildcards.get(wildcard).into_iter();
        let ports = ports.flat_map(|wildcard| &wildcard.ports);
        let singles = ports.flat_map(|port| {
            let all = IpAddr::from([0; 4])..=IpAddr::from([0xff; 16]);
            let at = |address: &IpAddr| Destination {
                port: *port,
                address: *address,
            };
            self.singles.range(at(all.start())..=at(all.end()))
        });
        let singles = singles.map(|(_, single)| &**single);
        singles.filter(|single| self.way(single).is_some())
    }

    /// Whether a connection to what this listener takes is taken by a chain of ours when the proxy does
    /// not have the listener. If not, it must be given: ahead of a wildcard listener of its port, and
    /// no later than [`Self::outer`] and [`Self::wildcards`].
    pub fn holds(&self, listener: &str) -> bool {
        let single = self.single(listener);
        single.is_some_and(|single| self.way(single).is_some())
    }

    /// A listener that can be held, by its name.
    pub fn single(&self, listener: &str) -> Option<&Single> {
        self.by_name.get(listener).map(|Named(single)| &**single)
    }

    /// All listeners that can be held, in order of their destinations, and how connections go on.
    pub fn held(&self) -> impl Iterator<Item = (&Single, Way)> {
        let singles = self.singles.values();
        singles.filter_map(|single| Some((&**single, self.way(single)?)))
    }

    fn way(&self, single: &Single) -> Option<Way> {
        let (_, outer) = self.outer.as_ref()?;
        let port = single.destination.port;
        let mut behind = self.wildcards.values().filter(|w| w.ports.contains(&port));
        if let Some(wildcard) = behind.next() {
            let can = single.inside && wildcard.leads(single) && behind.next().is_none();
            return can.then_some(Way::Inside);
        }
        if !outer.leaves(port) {
            return None;
        }
        let plain = single.plain.as_ref().filter(|plain| {
            let chain = |m: &Members| m.chain && m.form == plain.form;
            self.forms.iter().any(chain) && outer.is_alike(&plain.form)
        });
        match plain {
            Some(_) => Some(Way::Cluster),
            None => single.inside.then_some(Way::Inside),
        }
    }

    /// The listener for what was asked for, if it can be answered in the way that is asked for. `None`:
    /// it has gone meanwhile, and the connection is one like all that no listener takes, see
    /// [`Self::rest`].
    pub fn find(&self, asked: &Asked) -> Option<&Arc<Single>> {
        let single = self.singles.get(&asked.destination);
        single.filter(|single| single.can(asked.way))
    }

    /// The cluster that a connection no listener takes is led to; `None` if that is not one cluster, or more is done
    /// with it than to lead it there.
    pub fn rest(&self, to: &Destination) -> Option<&str> {
        let (_, outer) = self.outer.as_ref()?;
        outer.rest(to.address)
    }

    /// The clusters that connections fall back to which no listener takes.
    pub fn fallbacks(&self) -> impl Iterator<Item = &str> {
        let outer = self.outer.iter();
        outer.flat_map(|(_, outer)| outer.fallbacks())
    }

    /// `virtualOutbound` with what stands for listeners, an encoded `Resource`, and its name. `None`:
    /// there is none that can have chains of ours; then it goes out as it came. Equal listeners make
    /// equal bytes.
    ///
    /// # Errors
    /// When a kept message turns out to be broken after all.
    pub fn outer(&self, config: &OnDemandConfig) -> Result<Option<(&str, Vec<u8>)>, Error> {
        let Some((name, outer)) = &self.outer else {
            return Ok(None);
        };
        let forms = self.forms.iter().filter(|m| m.chain);
        let mut forms: Vec<&Form> = forms.map(|m| &m.form).collect();
        forms.sort_unstable();
        let shadowed = |port| self.wildcards.values().any(|w| w.ports.contains(&port));
        let held = self.held().filter(|(s, _)| !shadowed(s.destination.port));
        let resource = outer.with(&forms, held, config)?;
        Ok(Some((name, resource)))
    }

    /// The wildcard listeners that go out otherwise than they came, encoded `Resource`s, and their names.
    ///
    /// # Errors
    /// As [`Self::outer`].
    pub fn wildcards(&self, config: &OnDemandConfig) -> Result<Vec<(&str, Vec<u8>)>, Error> {
        let mut out = Vec::new();
        for (name, wildcard) in &self.wildcards {
            let leads = self.leading.contains(name);
            let held = leads.then(|| self.inside_of(name));
            if let Some(resource) = wildcard.with(held, config)? {
                out.push((&**name, resource));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
pub(crate) mod tests;
