//! Which virtual host takes a request, as Envoy decides it.
//!
//! Rules: envoy/config/route/v3/route_components.proto, VirtualHost.domains; details as of Envoy 1.40:
//! letters of the host count as lower case, those of a domain as they are written; a wildcard stands for
//! at least one character; among wildcards of a kind the longest wins; ends (`*.a`) come before
//! beginnings (`a.*`), and `*` last.

use foldhash::quality::RandomState;
use std::collections::{BTreeMap, HashMap};

/// Domains of virtual hosts, and which virtual host each leads to.
#[derive(Debug, Clone, Default)]
pub struct Domains {
    exact: HashMap<Box<str>, u32>,
    /// What follows a leading `*`.
    suffixes: Parts,
    /// What comes before a trailing `*`.
    prefixes: Parts,
    rest: Option<u32>,
}

/// Parts of hosts. Of a mesh's names thousands are looked for, and its wildcards are of a few lengths.
#[derive(Debug, Clone, Default)]
struct Parts(BTreeMap<usize, HashMap<Box<str>, u32, RandomState>>);

impl Parts {
    /// Adds one; whether it was new.
    fn insert(&mut self, part: &str, to: u32) -> bool {
        let alike = self.0.entry(part.len()).or_default();
        alike.insert(part.into(), to).is_none()
    }

    fn contains(&self, part: &str) -> bool {
        let alike = self.0.get(&part.len());
        alike.is_some_and(|alike| alike.contains_key(part))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.0
            .values()
            .flat_map(|alike| alike.keys().map(|part| &**part))
    }

    /// The longest that is shorter than `host` and is its part. `part`: the part of a length, if `host` can be cut there.
    fn find<'a>(&self, host: &'a str, part: impl Fn(usize) -> Option<&'a str>) -> Option<u32> {
        let shorter = self.0.range(..host.len()).rev();
        let mut found = shorter.filter_map(|(length, alike)| alike.get(part(*length)?));
        found.next().copied()
    }
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
            Domain::Suffix(tail) => self.suffixes.insert(tail, to),
            Domain::Prefix(head) => self.prefixes.insert(head, to),
            Domain::Exact(whole) => self.exact.insert(whole.into(), to).is_none(),
        }
    }

    /// Which virtual host takes a host in lower case, without a port where ports are ignored.
    pub fn find(&self, host: &str) -> Option<u32> {
        let exact = self.exact.get(host).copied();
        exact.or_else(|| self.wildcard(host)).or(self.rest)
    }

    fn wildcard(&self, host: &str) -> Option<u32> {
        let of_ends = self
            .suffixes
            .find(host, |length| host.get(host.len() - length..));
        of_ends.or_else(|| self.prefixes.find(host, |length| host.get(..length)))
    }

    /// Whether this very domain is in.
    pub fn contains(&self, domain: &str) -> bool {
        match Domain::parse(domain) {
            Domain::Rest => self.rest.is_some(),
            Domain::Suffix(tail) => self.suffixes.contains(tail),
            Domain::Prefix(head) => self.prefixes.contains(head),
            Domain::Exact(whole) => self.exact.contains_key(whole),
        }
    }

    /// Whether a wildcard in here takes hosts which one more wildcard would take from it.
    pub fn has_wildcard_behind(&self, wildcard: &str) -> bool {
        match Domain::parse(wildcard) {
            // A longer end wins over shorter ones, and over all beginnings.
            Domain::Suffix(tail) => {
                !self.prefixes.is_empty() || self.suffixes.all().any(|s| tail.ends_with(s))
            }
            Domain::Prefix(head) => self.prefixes.all().any(|p| head.starts_with(p)),
            Domain::Rest => !self.prefixes.is_empty() || !self.suffixes.is_empty(),
            Domain::Exact(_) => false,
        }
    }
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
