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
mod names;
mod template;

use super::domains::{Domain, Domains, host_of};
use crate::cluster::{OutboundName, payload};
use crate::wire::{self, Error};
use bytes::Bytes;
use dependency_graph::cover::{Cover, Pattern};
use dependency_graph::fallback::FALLBACK_ROUTE;
use foldhash::quality::RandomState;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::Range;

pub use compose::{View, without_header};
use names::{Index, Span, Texts};
use template::Template;

/// How many plain virtual hosts of one form are worth a virtual host that stands for them.
const FEWEST: usize = 2;

/// A route configuration, taken apart. Shared by all streams that were given the same.
#[derive(Debug)]
pub struct Routes {
    texts: Texts,
    hosts: Vec<VirtualHost>,
    /// Of all virtual hosts, those of one after those of the one before it.
    domains: Vec<DomainName>,
    /// The exact ones of them.
    exact: Index,
    /// The others, and whose they are.
    wild: Domains,
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
    /// Virtual hosts that can be held, by their clusters.
    by_cluster: Index,
    ignores_port: bool,
}

#[derive(Debug)]
struct VirtualHost {
    /// Where its domains begin.
    domains: u32,
    plain: Option<Plain>,
}

#[derive(Debug)]
struct DomainName {
    text: Span,
    /// Whether no wildcard takes it; where there is none for its virtual host, none does.
    open: bool,
}

/// What is particular about a plain virtual host.
#[derive(Debug)]
struct Plain {
    cluster: Span,
    operation: Span,
    /// What it has in common with others; `None` if those are too few to hold it.
    template: Option<u32>,
}

impl VirtualHost {
    fn can_be_held(&self) -> bool {
        self.template().is_some()
    }

    fn template(&self) -> Option<usize> {
        let template = self.plain.as_ref().and_then(|plain| plain.template);
        template.map(|template| template as usize)
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

/// Templates by what is common; `None`: it names clusters, so that no virtual host with it is plain.
type Forms = HashMap<Vec<u8>, Option<u32>, RandomState>;

impl Routes {
    /// Takes a route configuration apart, in its encoded `Resource`. `None`: it has its own ways to find a
    /// virtual host.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn parse(resource: &Bytes) -> Result<Option<Self>, Error> {
        let Some(texts) = Texts::new(resource.clone()) else {
            return Ok(None);
        };
        let config = payload(resource)?;
        // vhds = 9 and vhost_header = 18 have their own ways to find a virtual host.
        if wire::last(config, 9)?.is_some() || wire::last(config, 18)?.is_some() {
            return Ok(None);
        }
        let mut routes = Self::read(texts, config)?;
        routes.hold_only_groups();
        routes.choose_wildcards();
        routes.hosts.shrink_to_fit();
        routes.domains.shrink_to_fit();
        Ok(Some(routes))
    }

    fn read(texts: Texts, config: &[u8]) -> Result<Self, Error> {
        let mut routes = Self {
            texts,
            hosts: Vec::new(),
            domains: Vec::new(),
            exact: Index::default(),
            wild: Domains::default(),
            kept: Domains::default(),
            templates: Vec::new(),
            wildcards: BTreeSet::new(),
            rest: None,
            rest_cluster: None,
            fallback: None,
            by_cluster: Index::default(),
            ignores_port: wire::varint(config, 14)? != 0,
        };
        let mut forms = Forms::default();
        for host in wire::each(config, 2) {
            routes.read_host(host?, &mut forms)?;
        }
        Ok(routes)
    }

    fn read_host(&mut self, host: &[u8], forms: &mut Forms) -> Result<(), Error> {
        let index = number(self.hosts.len());
        self.hosts.push(VirtualHost {
            domains: number(self.domains.len()),
            plain: None,
        });
        let mut exact = true;
        for domain in wire::each(host, 2) {
            let text = self.texts.span(domain?, 2)?;
            self.domains.push(DomainName { text, open: true });
            exact &= self.take_domain(text, index);
            if Domain::parse(self.texts.get(text)) == Domain::Rest {
                self.rest = Some(index);
                self.rest_cluster = template::only_cluster(host)?.map(Box::from);
                self.fallback = template::cluster_by(host, FALLBACK_ROUTE)?.map(Box::from);
            }
        }
        if exact && let Some(form) = template::form(host)? {
            self.take_plain(index, form, forms);
        }
        Ok(())
    }

    /// Takes in the last domain of a virtual host; whether it is an exact one.
    fn take_domain(&mut self, text: Span, of: u32) -> bool {
        let Self {
            texts,
            domains,
            exact,
            wild,
            ..
        } = self;
        let domain = texts.get(text);
        if !matches!(Domain::parse(domain), Domain::Exact(_)) {
            wild.insert(domain, of);
            return false;
        }
        let last = number(domains.len() - 1);
        exact.insert(last, |at| texts.bytes(domains[at as usize].text));
        true
    }

    /// Two virtual hosts towards one cluster are not told apart by it: the second one is not plain.
    fn take_plain(&mut self, index: u32, form: template::Form<'_>, forms: &mut Forms) {
        let cluster = self.texts.place(form.cluster);
        let operation = self.texts.place(form.operation);
        let (Some(cluster), Some(operation)) = (cluster, operation) else {
            return;
        };
        let known = match forms.get(&form.common) {
            Some(None) => return,
            Some(known) => *known,
            None if template::is_plain(&form.common) => None,
            None => {
                forms.insert(form.common, None);
                return;
            }
        };
        let mut by_cluster = std::mem::take(&mut self.by_cluster);
        let of = |at: u32| match at == index {
            true => cluster,
            false => self.cluster(at),
        };
        let new = by_cluster.insert(index, |at| self.texts.bytes(of(at)));
        self.by_cluster = by_cluster;
        if !new {
            return;
        }
        let template = known.unwrap_or_else(|| {
            let next = number(self.templates.len());
            self.templates.push(Template::new(form.common.clone()));
            forms.insert(form.common, Some(next));
            next
        });
        self.templates[template as usize].members += 1;
        self.hosts[index as usize].plain = Some(Plain {
            cluster,
            operation,
            template: Some(template),
        });
    }

    /// Forms of which there are too few are given as they are.
    fn hold_only_groups(&mut self) {
        let mut renumbered = Vec::new();
        let mut templates = Vec::new();
        for template in std::mem::take(&mut self.templates) {
            let worth = template.members >= FEWEST;
            renumbered.push(worth.then_some(number(templates.len())));
            if worth {
                templates.push(template);
            }
        }
        self.templates = templates;
        for plain in self.hosts.iter_mut().filter_map(|host| host.plain.as_mut()) {
            let template = plain.template;
            plain.template = template.and_then(|template| renumbered[template as usize]);
        }
        let mut kept = Domains::default();
        for (at, _) in self
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, h)| !h.can_be_held())
        {
            for domain in self.names(at, true) {
                kept.insert(domain, number(at));
            }
        }
        self.kept = kept;
        let mut by_cluster = std::mem::take(&mut self.by_cluster);
        let held = |at: u32| self.hosts[at as usize].can_be_held();
        by_cluster.retain(held, |at| self.texts.bytes(self.cluster(at)));
        self.by_cluster = by_cluster;
        let Self {
            texts,
            domains,
            exact,
            ..
        } = self;
        exact.retain(|_| true, |at| texts.bytes(domains[at as usize].text));
    }

    /// Wildcards, if what they take too much can be given back exactly: to a virtual host that does
    /// nothing but route to one cluster. And none that takes from another wildcard.
    fn choose_wildcards(&mut self) {
        if self.rest_cluster.is_none() {
            return;
        }
        let widest = self.widest();
        let covers = self.covers(widest);
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
        for at in 0..self.hosts.len() {
            if self.hosts[at].template() != Some(widest) {
                continue;
            }
            let range = self.domains_of(at);
            for domain in &mut self.domains[range] {
                domain.open = taken.find(self.texts.get(domain.text)).is_none();
            }
        }
    }

    /// Covers of the names of the virtual hosts of a template: one for each domain of the cluster.
    fn covers(&self, template: usize) -> Vec<Cover> {
        let mut namespaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut addresses = HashSet::new();
        for (at, host) in self.hosts.iter().enumerate() {
            if host.template() != Some(template) {
                continue;
            }
            if let Some((namespace, domain)) = kubernetes_name(self.cluster_of(number(at))) {
                namespaces.entry(domain).or_default().insert(namespace);
            }
            let names = self.names(at, true);
            addresses.extend(names.filter_map(|d| d.parse::<Ipv4Addr>().ok()));
        }
        // Services' addresses come from few ranges; what else is in those is nobody's, and told apart.
        let ranges: BTreeSet<Ipv4Net> = addresses
            .into_iter()
            .filter_map(|a| Ipv4Net::new(a, 16).ok())
            .map(|range| range.trunc())
            .collect();
        let ranges: Vec<IpNet> = ranges.into_iter().map(IpNet::V4).collect();
        let of = |(domain, namespaces): (&str, BTreeSet<&str>)| {
            Cover::of(namespaces, [], domain, &ranges)
        };
        namespaces.into_iter().map(of).collect()
    }

    /// The template most virtual hosts have.
    fn widest(&self) -> usize {
        let sizes = self.templates.iter().enumerate();
        sizes.max_by_key(|(_, t)| t.members).map_or(0, |(at, _)| at)
    }

    /// What an authority means.
    pub fn meaning(&self, authority: &str) -> Meaning<'_> {
        let Some(index) = self.find(&self.host(authority)) else {
            return Meaning::Other;
        };
        match (&self.hosts[index as usize].plain, &self.rest_cluster) {
            (Some(plain), _) => Meaning::Service {
                cluster: self.texts.get(plain.cluster),
                operation: self.texts.get(plain.operation),
            },
            (None, Some(cluster)) if self.rest == Some(index) => Meaning::Nobody(cluster),
            _ => Meaning::Other,
        }
    }

    /// Which virtual host takes a host in lower case, without a port where ports are ignored.
    fn find(&self, host: &str) -> Option<u32> {
        let exact = self.exact_at(host);
        // The last one that begins no later.
        let of = |at| {
            number(
                self.hosts
                    .partition_point(|h| h.domains <= at)
                    .saturating_sub(1),
            )
        };
        exact.map(of).or_else(|| self.wild.find(host))
    }

    /// Whether this very domain is in.
    fn contains(&self, domain: &str) -> bool {
        match Domain::parse(domain) {
            Domain::Exact(_) => self.exact_at(domain).is_some(),
            _ => self.wild.contains(domain),
        }
    }

    /// Which of all domains this exact one is.
    fn exact_at(&self, domain: &str) -> Option<u32> {
        let text_of = |at: u32| {
            let domain = self.domains.get(at as usize);
            domain.map_or(&[][..], |domain| self.texts.bytes(domain.text))
        };
        self.exact.get(domain.as_bytes(), text_of)
    }

    fn domains_of(&self, host: usize) -> Range<usize> {
        let begin = |host: usize| self.hosts.get(host).map(|h| h.domains as usize);
        let end = begin(host + 1).unwrap_or(self.domains.len());
        begin(host).unwrap_or(end)..end
    }

    /// The domains of a virtual host; those that a stand-in for it has by name. `exact`: without wildcards.
    fn names(&self, host: usize, exact: bool) -> impl Iterator<Item = &str> {
        let all = self.domains[self.domains_of(host)].iter();
        all.filter(move |domain| exact || domain.open)
            .map(|domain| self.texts.get(domain.text))
    }

    /// The cluster of a plain virtual host.
    fn cluster_of(&self, host: u32) -> &str {
        self.texts.get(self.cluster(host))
    }

    fn cluster(&self, host: u32) -> Span {
        let plain = self.hosts.get(host as usize).and_then(|h| h.plain.as_ref());
        plain.map_or(Span::default(), |plain| plain.cluster)
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
        let text_of = |host| self.texts.bytes(self.cluster(host));
        self.by_cluster.get(cluster.as_bytes(), text_of).is_some()
    }

    /// How many virtual hosts there are, and how many of them can be held.
    pub fn count(&self) -> (usize, usize) {
        (self.hosts.len(), self.by_cluster.len())
    }
}

/// A place in a list that cannot be longer: the bytes behind it are counted so.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
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
