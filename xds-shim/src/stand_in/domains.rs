//! Which virtual host takes a request, as Envoy decides it.
//!
//! Rules: envoy/config/route/v3/route_components.proto, VirtualHost.domains; details as of Envoy 1.40:
//! letters of the host count as lower case, those of a domain as they are written; a wildcard stands for
//! at least one character; among wildcards of a kind the longest wins; ends (`*.a`) come before
//! beginnings (`a.*`), and `*` last.

use std::collections::{BTreeMap, HashMap};

/// Domains of virtual hosts, and which virtual host each leads to.
#[derive(Debug, Clone, Default)]
pub struct Domains {
    exact: HashMap<Box<str>, u32>,
    /// What follows a leading `*`.
    suffixes: BTreeMap<Box<str>, u32>,
    /// What comes before a trailing `*`.
    prefixes: BTreeMap<Box<str>, u32>,
    rest: Option<u32>,
}

/// The kinds of domains there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain<'a> {
    /// `*`
    Rest,
    /// `*` and this
    Suffix(&'a str),
    /// This and `*`
    Prefix(&'a str),
    /// This
    Exact(&'a str),
}

impl<'a> Domain<'a> {
    /// Reads a domain as Envoy does.
    pub fn parse(domain: &'a str) -> Self {
        if domain == "*" {
            Self::Rest
        } else if let Some(tail) = domain.strip_prefix('*') {
            Self::Suffix(tail)
        } else if let Some(head) = domain.strip_suffix('*') {
            Self::Prefix(head)
        } else {
            Self::Exact(domain)
        }
    }
}

impl Domains {
    /// Adds a domain; whether it was new. Envoy refuses a configuration in which one occurs twice.
    pub fn insert(&mut self, domain: &str, to: u32) -> bool {
        match Domain::parse(domain) {
            Domain::Rest => self.rest.replace(to).is_none(),
            Domain::Suffix(tail) => self.suffixes.insert(tail.into(), to).is_none(),
            Domain::Prefix(head) => self.prefixes.insert(head.into(), to).is_none(),
            Domain::Exact(whole) => self.exact.insert(whole.into(), to).is_none(),
        }
    }

    /// Which virtual host takes a host in lower case, without a port where ports are ignored.
    pub fn find(&self, host: &str) -> Option<u32> {
        let exact = self.exact.get(host).copied();
        exact.or_else(|| self.wildcard(host)).or(self.rest)
    }

    fn wildcard(&self, host: &str) -> Option<u32> {
        // From the longest that is shorter than the host to the shortest.
        let ends = || cuts(host).skip(1).map(|at| &host[at..]);
        let beginnings = || cuts(host).rev().map(|at| &host[..at]);
        let found = |map: &BTreeMap<Box<str>, u32>, part: &str| map.get(part).copied();
        let of_ends = || ends().find_map(|tail| found(&self.suffixes, tail));
        let of_beginnings = || beginnings().find_map(|head| found(&self.prefixes, head));
        let none = |map: &BTreeMap<_, _>| map.is_empty();
        (!none(&self.suffixes))
            .then(of_ends)
            .flatten()
            .or_else(|| (!none(&self.prefixes)).then(of_beginnings).flatten())
    }

    /// Whether this very domain is in.
    pub fn contains(&self, domain: &str) -> bool {
        match Domain::parse(domain) {
            Domain::Rest => self.rest.is_some(),
            Domain::Suffix(tail) => self.suffixes.contains_key(tail),
            Domain::Prefix(head) => self.prefixes.contains_key(head),
            Domain::Exact(whole) => self.exact.contains_key(whole),
        }
    }

    /// Whether a wildcard in here takes hosts which one more wildcard would take from it.
    pub fn has_wildcard_behind(&self, wildcard: &str) -> bool {
        match Domain::parse(wildcard) {
            // A longer end wins over shorter ones, and over all beginnings.
            Domain::Suffix(tail) => {
                !self.prefixes.is_empty() || self.suffixes.keys().any(|s| tail.ends_with(&**s))
            }
            Domain::Prefix(head) => self.prefixes.keys().any(|p| head.starts_with(&**p)),
            Domain::Rest => !self.prefixes.is_empty() || !self.suffixes.is_empty(),
            Domain::Exact(_) => false,
        }
    }
}

/// Where a text can be cut in two, from the front, its end left out.
fn cuts(text: &str) -> impl DoubleEndedIterator<Item = usize> {
    text.char_indices().map(|(at, _)| at)
}

/// The host of a request's `:authority` as domains are compared with it.
///
/// `without_port`: the route configuration ignores ports; what follows the last colon is one, unless
/// that stands in brackets (Envoy: HeaderUtility::getPortStart).
pub fn host_of(authority: &str, without_port: bool) -> String {
    let port = authority.rfind(':').filter(|colon| {
        let bracket = authority.rfind(']');
        without_port && bracket.is_none_or(|bracket| bracket < *colon)
    });
    authority[..port.unwrap_or(authority.len())].to_ascii_lowercase()
}

/// Whether a host can be written as a domain that means it and nothing else.
pub fn is_plain(host: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(letter)
}

#[cfg(test)]
mod tests;
