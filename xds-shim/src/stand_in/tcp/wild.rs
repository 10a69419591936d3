//! Listeners at no address in particular, as istiod makes them for the ports of HTTP services.

use super::form::{INSIDE, inside_chain};
use super::matcher::{by_address, by_protocol};
use super::{Single, socket_address};
use crate::listener::OnDemandConfig;
use crate::wire::{self, Edit, Error};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// How a listener sniffs, as a hash of its listener filters.
pub type Sniffs = [u8; 32];

/// The name given to the chain for HTTP, which has none. It is given in any case: given later, it would
/// make another chain of it, and end its connections.
const HTTP: &str = "lazymesh-http";

/// A wildcard listener.
#[derive(Debug)]
pub struct Wildcard {
    /// Its ports.
    pub ports: BTreeSet<u16>,
    /// What it takes to lead connections elsewhere.
    leads: Option<Leads>,
}

#[derive(Debug)]
struct Leads {
    /// The encoded `Resource`, its chain named.
    resource: Box<[u8]>,
    /// Whether naming it changed it.
    changed: bool,
    /// An encoded `Matcher.OnMatch` that leads to its chain whatever istiod's own match leads there.
    own: Vec<u8>,
    sniffs: Sniffs,
}

impl Wildcard {
    /// Takes a wildcard listener apart; `None` if it has an address. Listener: address = 2,
    /// additional_addresses = 33 with address = 1.
    pub(super) fn parse(resource: &[u8], listener: &[u8]) -> Result<Option<Self>, Error> {
        let mut addresses: Vec<&[u8]> = wire::last(listener, 2)?.into_iter().collect();
        for additional in wire::each(listener, 33) {
            addresses.extend(wire::last(additional?, 1)?);
        }
        let mut ports = BTreeSet::new();
        let mut only_wild = true;
        for address in addresses {
            match socket_address(address)? {
                Some((ip, port)) if ip.is_unspecified() => _ = ports.insert(port),
                _ => only_wild = false,
            }
        }
        if ports.is_empty() {
            return Ok(None);
        }
        let leads = match only_wild && ports.len() == 1 {
            true => leads(resource, listener)?,
            false => None,
        };
        Ok(Some(Self { ports, leads }))
    }

    /// Whether connections that this listener should take can be led inside: sniffed already, they
    /// must have been sniffed in the same way.
    pub(super) fn leads(&self, single: &Single) -> bool {
        let leads = self.leads.as_ref();
        leads.is_some_and(|leads| single.sniffs == Some(leads.sniffs))
    }

    /// It with what leads connections to these inside; with its chain named only, if there never were
    /// any. `None`: as it came. Listener: filter_chains = 3, filter_chain_matcher = 32.
    pub(super) fn with<'a>(
        &self,
        held: Option<impl Iterator<Item = &'a Single>>,
        config: &OnDemandConfig,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(leads) = &self.leads else {
            return Ok(None);
        };
        let Some(held) = held else {
            return Ok(leads.changed.then(|| leads.resource.to_vec()));
        };
        let addresses: Vec<IpNet> = held.map(|s| IpNet::from(s.destination.address)).collect();
        let mut by_chain = BTreeMap::new();
        if !addresses.is_empty() {
            by_chain.insert(INSIDE, addresses);
        }
        let mut ours = Vec::new();
        wire::put_bytes(&mut ours, 3, &inside_chain(config));
        wire::put_bytes(&mut ours, 32, &by_address(&by_chain, &leads.own));
        edit_listener(&leads.resource, |listener| Ok([listener, &ours].concat())).map(Some)
    }
}

/// What it takes, if the listener is as istiod makes them: one chain for HTTP, a default one for the
/// rest. Listener: filter_chains = 3, default_filter_chain = 25 and whatever a listener may have that
/// hands nothing on and matches nothing (see [`super::inside::can_be`]).
fn leads(resource: &[u8], listener: &[u8]) -> Result<Option<Leads>, Error> {
    let mut chains = Vec::new();
    for field in wire::fields(listener) {
        let field = field?;
        match (field.number, field.bytes()) {
            (3, Some(chain)) => chains.push(chain),
            (1 | 2 | 5 | 6 | 9 | 15 | 16 | 17 | 22 | 25 | 26 | 33, _) => {}
            _ => return Ok(None),
        }
    }
    let (&[chain], Some(_), Some(sniffs)) =
        (&*chains, wire::last(listener, 25)?, sniffs(listener)?)
    else {
        return Ok(None);
    };
    let given = wire::string(chain, 7)?;
    let name = if given.is_empty() { HTTP } else { given };
    let Some(own) = own(chain, name)? else {
        return Ok(None);
    };
    let resource = edit_listener(resource, |listener| {
        let named = wire::edit::<Error>(listener, |field| match field.bytes() {
            Some(chain) if field.number == 3 && given.is_empty() => {
                let mut chain = chain.to_vec();
                wire::put_string(&mut chain, 7, HTTP);
                Ok(Edit::Replace(chain))
            }
            _ => Ok(Edit::Keep),
        })?;
        Ok(named.unwrap_or_else(|| listener.to_vec()))
    })?;
    Ok(Some(Leads {
        resource: resource.into(),
        changed: given.is_empty(),
        own,
        sniffs,
    }))
}

/// A chain's match as an encoded `OnMatch`, if it is by protocol alone. FilterChain:
/// filter_chain_match = 1 with transport_protocol = 9, application_protocols = 10.
fn own(chain: &[u8], name: &str) -> Result<Option<Vec<u8>>, Error> {
    let matches = wire::last(chain, 1)?.unwrap_or_default();
    let mut applications = Vec::new();
    for field in wire::fields(matches) {
        let field = field?;
        match (field.number, field.str()?) {
            (9, _) => {}
            (10, Some(application)) => applications.push(application),
            _ => return Ok(None),
        }
    }
    let transport = wire::string(matches, 9)?;
    // Of a connection in the clear, a sniffer tells one application protocol.
    let known = transport == "raw_buffer" && !applications.is_empty();
    Ok(known.then(|| by_protocol(transport, &applications, name)))
}

/// How a listener sniffs; `None` if it does not. Listener: listener_filters = 9,
/// listener_filters_timeout = 15, continue_on_listener_filters_timeout = 17.
pub(super) fn sniffs(listener: &[u8]) -> Result<Option<Sniffs>, Error> {
    let mut hash = blake3::Hasher::new();
    let mut any = false;
    for number in [9, 15, 17] {
        for field in wire::fields(listener) {
            let field = field?;
            if field.number == number {
                any |= number == 9;
                hash.update(field.record);
            }
        }
    }
    Ok(any.then(|| hash.finalize().into()))
}

/// A `Resource` with its listener changed (resource = 2 with value = 2).
fn edit_listener(
    resource: &[u8],
    change: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(resource, 2, |any| {
        wire::edit_each(any, 2, |listener| change(listener).map(Some))
    })?;
    Ok(changed.unwrap_or_else(|| resource.to_vec()))
}
