//! The route configuration a proxy gets.

use super::{Routes, VirtualHost};
use crate::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::stand_in::domains::is_plain;
use crate::stand_in::{HEADER, OPERATION};
use crate::wire::{self, Error};
use prost::Message;
use std::collections::BTreeSet;

/// What of a route configuration one proxy is to see.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Whether a cluster's virtual host is given itself.
    pub gives: &'a dyn Fn(&str) -> bool,
    /// Hosts that were asked for and are nobody's: the virtual host for the rest takes them by name.
    pub nobody: &'a BTreeSet<Box<str>>,
    /// No wildcards: every name is written out.
    pub exact: bool,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("View");
        out.field("nobody", &self.nobody)
            .field("exact", &self.exact)
            .finish_non_exhaustive()
    }
}

/// An encoded `Resource` holding a route configuration of which nothing is held: as it came, but that our
/// header does not leave the proxy.
///
/// # Errors
/// When the bytes are not such a message.
pub fn without_header(resource: &[u8]) -> Result<Vec<u8>, Error> {
    edit_config(resource, |config| {
        let mut out = config.to_vec();
        remove_header(&mut out);
        Ok(out)
    })
}

/// RouteConfiguration: request_headers_to_remove = 8.
fn remove_header(config: &mut Vec<u8>) {
    wire::put_bytes(config, 8, HEADER.as_bytes());
}

fn edit_config(
    resource: &[u8],
    change: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(resource, 2, |any| {
        wire::edit_each(any, 2, |config| change(config).map(Some))
    })?;
    Ok(changed.unwrap_or_else(|| resource.to_vec()))
}

impl Routes {
    /// What the proxy gets of `resource`, which [`Routes::parse`] took apart, in an encoded `Resource`.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn compose(&self, resource: &[u8], view: View<'_>) -> Result<Vec<u8>, Error> {
        let held: Vec<bool> = self.hosts.iter().map(|h| self.is_held(h, view)).collect();
        edit_config(resource, |config| {
            let mut out = Vec::with_capacity(4096);
            let mut hosts = held.iter().enumerate();
            for field in wire::fields(config) {
                let field = field?;
                match hosts.next_if_host(field.number) {
                    Some((_, true)) => {}
                    Some((at, _)) if self.rest == u32::try_from(at).ok() => {
                        let rest = field.bytes().unwrap_or_default();
                        wire::put_bytes(&mut out, 2, &self.with_nobody(rest, view));
                    }
                    _ => out.extend_from_slice(field.record),
                }
            }
            for host in self.stand_ins(&held, view)? {
                wire::put_bytes(&mut out, 2, &host);
            }
            remove_header(&mut out);
            Ok(out)
        })
    }

    /// The virtual host for the rest, with the names that wildcards would take from it.
    fn with_nobody(&self, rest: &[u8], view: View<'_>) -> Vec<u8> {
        let mut out = rest.to_vec();
        let wanted = |host: &&str| {
            // With a registry that changed meanwhile a name may be somebody's.
            is_plain(host) && self.find(host) == self.rest && !self.contains(host)
        };
        if !view.exact && !self.wildcards.is_empty() {
            for host in view.nobody.iter().map(|h| &**h).filter(wanted) {
                wire::put_bytes(&mut out, 2, host.as_bytes());
            }
        }
        out
    }

    /// The virtual hosts that stand for those that are held.
    fn stand_ins(&self, held: &[bool], view: View<'_>) -> Result<Vec<Vec<u8>>, Error> {
        let widest = self.widest();
        let mut domains = vec![BTreeSet::new(); self.templates.len()];
        if let Some(domains) = domains.get_mut(widest).filter(|_| !view.exact) {
            domains.extend(self.wildcards.iter().map(String::as_str));
        }
        for (at, host) in self.hosts.iter().enumerate().filter(|(at, _)| held[*at]) {
            if let Some(template) = host.template() {
                domains[template].extend(self.names(at, view.exact));
            }
        }
        let all = self.templates.iter().zip(domains).enumerate();
        all.filter(|(_, (_, domains))| !domains.is_empty())
            .map(|(at, (template, domains))| stand_in(at, &template.common, &domains))
            .collect()
    }

    fn is_held(&self, host: &VirtualHost, view: View<'_>) -> bool {
        let held = |plain: &super::Plain| {
            plain.template.is_some() && !(view.gives)(self.texts.get(plain.cluster))
        };
        host.plain.as_ref().is_some_and(held)
    }
}

/// A virtual host made of a template. VirtualHost: name = 1, domains = 2, routes = 3; Route: route = 2;
/// RouteAction: cluster_header = 2.
fn stand_in(number: usize, common: &[u8], domains: &BTreeSet<&str>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(common.len() + 64);
    wire::put_string(&mut out, 1, &format!("lazy|{number}"));
    for domain in domains {
        wire::put_bytes(&mut out, 2, domain.as_bytes());
    }
    let routes = wire::edit_each::<Error>(common, 3, |route| {
        wire::edit_each(route, 2, |action| {
            let mut out = action.to_vec();
            wire::put_string(&mut out, 2, HEADER);
            Ok(Some(out))
        })
        .map(|changed| {
            let mut out = changed.unwrap_or_else(|| route.to_vec());
            // Route: request_headers_to_add = 9.
            wire::put_bytes(&mut out, 9, &tell_operation());
            Some(out)
        })
    })?;
    out.extend_from_slice(routes.as_deref().unwrap_or(common));
    Ok(out)
}

/// An encoded `HeaderValueOption`: servers are told of the operation as by a decorator, which a stand-in
/// cannot have. The copy of the cluster knows it; where it does not, nothing is added.
fn tell_operation() -> Vec<u8> {
    let (namespace, key) = OPERATION;
    HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-envoy-decorator-operation".into(),
            value: format!("%CLUSTER_METADATA({namespace}:{key})%"),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    }
    .encode_to_vec()
}

/// Walks the virtual hosts along with the records of their configuration.
trait NextHost<T> {
    fn next_if_host(&mut self, number: u32) -> Option<T>;
}

impl<T, I: Iterator<Item = T>> NextHost<T> for I {
    fn next_if_host(&mut self, number: u32) -> Option<T> {
        (number == 2).then(|| self.next()).flatten()
    }
}
