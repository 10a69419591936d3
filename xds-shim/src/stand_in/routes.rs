//! A route configuration in which one virtual host stands for many.
//!
//! Virtual hosts that differ from one another only in their service's name are *plain*: their common
//! form is a template. In what the proxy gets, plain ones that are not admitted are left out, and a
//! virtual host made of the template takes their requests. Its domains are wildcards from the cover of
//! the mesh's names ([`dependency_graph::cover`]); what a wildcard takes that is nobody's name is given
//! to the configuration's last virtual host (`*`) by name, as soon as it is asked for. Its cluster is
//! picked by a header that the listener writes ([`super::header_value`]).
//!
//! Where what no virtual host takes falls back by a route of its own, to be told from the rest by more than the
//! name, there are no wildcards: every name is written out, and one that is left to the last virtual host never asks.
//!
//! Nothing is decoded and encoded again: records are left out, copied and added on the wire. Field
//! numbers: envoy/config/route/v3/route.proto and route_components.proto.

mod compose;
mod template;

use super::domains::{Domain, Domains, host_of};
use crate::cluster::{OutboundName, payload};
use crate::wire::{self, Error};
use dependency_graph::cover::{Cover, Pattern};
use dependency_graph::fallback::FALLBACK_ROUTE;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

pub use compose::{View, without_header};
use template::Template;

/// How many plain virtual hosts of one form are worth a virtual host that stands for them.
const FEWEST: usize = 2;

/// A route configuration, taken apart. Shared by all streams that were given the same.
#[derive(Debug)]
pub struct Routes {
    hosts: Vec<VirtualHost>,
    domains: Domains,
    /// Domains of virtual hosts that are always given.
    kept: Domains,
    templates: Vec<Template>,
    /// Wildcards for the largest group, by the template they are for.
    wildcards: BTreeSet<String>,
    /// The virtual host that takes what no other does.
    rest: Option<u32>,
    /// The cluster that one routes everything to, if that is all it does.
    rest_cluster: Option<Box<str>>,
    /// The cluster that one leads what falls back to.
    fallback: Option<Box<str>>,
    by_cluster: HashMap<Box<str>, u32>,
    ignores_port: bool,
}

#[derive(Debug)]
struct VirtualHost {
    domains: Vec<Box<str>>,
    plain: Option<Plain>,
    /// Which of its domains no wildcard takes; all of them, where there is none for it.
    open: Vec<bool>,
}

/// What is particular about a plain virtual host.
#[derive(Debug)]
struct Plain {
    cluster: Box<str>,
    operation: Box<str>,
    /// What it has in common with others; `None` if those are too few to hold it.
    template: Option<usize>,
}

impl VirtualHost {
    fn can_be_held(&self) -> bool {
        self.template().is_some()
    }

    fn template(&self) -> Option<usize> {
        self.plain.as_ref().and_then(|plain| plain.template)
    }

    /// The domains that a stand-in for it has by name. `exact`: without wildcards.
    fn names(&self, exact: bool) -> impl Iterator<Item = &str> {
        let all = self.domains.iter().zip(&self.open);
        all.filter(move |(_, open)| exact || **open)
            .map(|(domain, _)| &**domain)
    }
}

/// What a request's authority means in a route configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A plain virtual host takes it, which routes to this cluster.
    Service {
        /// The cluster's name.
        cluster: &'a str,
        /// What servers are told of it in `x-envoy-decorator-operation`; empty: nothing.
        operation: &'a str,
    },
    /// No virtual host takes it but the one for the rest, which routes to this cluster.
    Nobody(&'a str),
    /// Something else: a virtual host that the proxy has.
    Other,
}

impl Routes {
    /// Takes a route configuration apart, in its encoded `Resource`. `None`: it has its own ways to find a
    /// virtual host.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn parse(resource: &[u8]) -> Result<Option<Self>, Error> {
        let config = payload(resource)?;
        // vhds = 9 and vhost_header = 18 have their own ways to find a virtual host.
        if wire::last(config, 9)?.is_some() || wire::last(config, 18)?.is_some() {
            return Ok(None);
        }
        let mut routes = Self::read(config)?;
        routes.hold_only_groups();
        routes.choose_wildcards();
        Ok(Some(routes))
    }

    fn read(config: &[u8]) -> Result<Self, Error> {
        let mut routes = Self {
            hosts: Vec::new(),
            domains: Domains::default(),
            kept: Domains::default(),
            templates: Vec::new(),
            wildcards: BTreeSet::new(),
            rest: None,
            rest_cluster: None,
            fallback: None,
            by_cluster: HashMap::new(),
            ignores_port: wire::varint(config, 14)? != 0,
        };
        let mut forms = HashMap::new();
        for host in wire::each(config, 2) {
            routes.read_host(host?, &mut forms)?;
        }
        Ok(routes)
    }

    fn read_host(&mut self, host: &[u8], forms: &mut HashMap<Vec<u8>, usize>) -> Result<(), Error> {
        let index = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let mut domains: Vec<Box<str>> = Vec::new();
        for domain in wire::each(host, 2) {
            domains.push(
                std::str::from_utf8(domain?)
                    .map_err(|_| Error::NotUtf8(2))?
                    .into(),
            );
        }
        let mut exact = true;
        for domain in &domains {
            self.domains.insert(domain, index);
            exact &= matches!(Domain::parse(domain), Domain::Exact(_));
            if Domain::parse(domain) == Domain::Rest {
                self.rest = Some(index);
                self.rest_cluster = template::only_cluster(host)?.map(Box::from);
                self.fallback = template::cluster_by(host, FALLBACK_ROUTE)?.map(Box::from);
            }
        }
        let mut plain = None;
        if exact && let Some(form) = template::form(host)? {
            // Two virtual hosts towards one cluster are not told apart by it.
            let new = !self.by_cluster.contains_key(&*form.cluster);
            if new {
                let next = self.templates.len();
                let template = *forms.entry(form.common).or_insert_with_key(|common| {
                    self.templates.push(Template::new(common.clone()));
                    next
                });
                self.templates[template].members += 1;
                self.by_cluster.insert(form.cluster.clone(), index);
                plain = Some(Plain {
                    cluster: form.cluster,
                    operation: form.operation,
                    template: Some(template),
                });
            }
        }
        let open = vec![true; domains.len()];
        self.hosts.push(VirtualHost {
            domains,
            plain,
            open,
        });
        Ok(())
    }

    /// Forms of which there are too few are given as they are.
    fn hold_only_groups(&mut self) {
        let mut renumbered = Vec::new();
        let mut templates = Vec::new();
        for template in std::mem::take(&mut self.templates) {
            let worth = template.members >= FEWEST;
            renumbered.push(worth.then_some(templates.len()));
            if worth {
                templates.push(template);
            }
        }
        self.templates = templates;
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if let Some(plain) = &mut host.plain {
                plain.template = plain.template.and_then(|template| renumbered[template]);
            }
            if !host.can_be_held() {
                for domain in &host.domains {
                    self.kept
                        .insert(domain, u32::try_from(index).unwrap_or(u32::MAX));
                }
            }
        }
        let hosts = &self.hosts;
        self.by_cluster
            .retain(|_, index| hosts[*index as usize].can_be_held());
    }

    /// Wildcards, if what they take too much can be given back exactly: to a virtual host that does
    /// nothing but route to one cluster. And none that takes from another wildcard.
    fn choose_wildcards(&mut self) {
        if self.rest_cluster.is_none() {
            return;
        }
        let widest = self.widest();
        let members = self.hosts.iter().filter(|h| h.template() == Some(widest));
        let covers = covers(members);
        let patterns = covers
            .iter()
            .flat_map(Cover::patterns)
            .filter_map(Pattern::domain);
        self.wildcards = patterns
            .filter(|domain| matches!(Domain::parse(domain), Domain::Suffix(_) | Domain::Prefix(_)))
            .filter(|domain| !self.kept.has_wildcard_behind(domain))
            .collect();
        let mut taken = Domains::default();
        for wildcard in &self.wildcards {
            taken.insert(wildcard, 0);
        }
        for host in &mut self.hosts {
            if host.template() == Some(widest) {
                let open = host.domains.iter().map(|d| taken.find(d).is_none());
                host.open = open.collect();
            }
        }
    }

    /// The template most virtual hosts have.
    fn widest(&self) -> usize {
        let sizes = self.templates.iter().enumerate();
        sizes.max_by_key(|(_, t)| t.members).map_or(0, |(at, _)| at)
    }

    /// What an authority means.
    pub fn meaning(&self, authority: &str) -> Meaning<'_> {
        let Some(index) = self.domains.find(&self.host(authority)) else {
            return Meaning::Other;
        };
        match (&self.hosts[index as usize].plain, &self.rest_cluster) {
            (Some(plain), _) => Meaning::Service {
                cluster: &plain.cluster,
                operation: &plain.operation,
            },
            (None, Some(cluster)) if self.rest == Some(index) => Meaning::Nobody(cluster),
            _ => Meaning::Other,
        }
    }

    /// An authority as it is compared with domains.
    pub fn host(&self, authority: &str) -> String {
        host_of(authority, self.ignores_port)
    }

    /// The cluster that requests fall back to which no virtual host takes, where there is such a thing.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Whether this cluster's virtual host is one that can be held.
    pub fn holds(&self, cluster: &str) -> bool {
        self.by_cluster.contains_key(cluster)
    }

    /// How many virtual hosts there are, and how many of them can be held.
    pub fn count(&self) -> (usize, usize) {
        (self.hosts.len(), self.by_cluster.len())
    }
}

/// Covers of these virtual hosts' names: one for each domain of the cluster.
fn covers<'a>(hosts: impl Iterator<Item = &'a VirtualHost>) -> Vec<Cover> {
    let mut namespaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut addresses = HashSet::new();
    for host in hosts {
        if let Some((namespace, domain)) = host
            .plain
            .as_ref()
            .and_then(|p| kubernetes_name(&p.cluster))
        {
            namespaces.entry(domain).or_default().insert(namespace);
        }
        addresses.extend(
            host.domains
                .iter()
                .filter_map(|d| d.parse::<Ipv4Addr>().ok()),
        );
    }
    // Services' addresses come from few ranges; what else is in those is nobody's, and told apart.
    let ranges: BTreeSet<Ipv4Net> = addresses
        .into_iter()
        .filter_map(|a| Ipv4Net::new(a, 16).ok())
        .map(|range| range.trunc())
        .collect();
    let ranges: Vec<IpNet> = ranges.into_iter().map(IpNet::V4).collect();
    let of =
        |(domain, namespaces): (&str, BTreeSet<&str>)| Cover::of(namespaces, [], domain, &ranges);
    namespaces.into_iter().map(of).collect()
}

/// The namespace and the cluster's domain in a cluster towards `name.namespace.svc.domain`.
fn kubernetes_name(cluster: &str) -> Option<(&str, &str)> {
    let host = OutboundName::parse(cluster)?.host;
    let (_, rest) = host.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    Some((namespace, rest.strip_prefix("svc.")?))
}

#[cfg(test)]
mod tests;
