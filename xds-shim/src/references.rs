//! Which clusters a resource refers to in ways that on-demand does not cover.
//!
//! Envoy asks on demand only for the cluster that a route or a TCP proxy picks. A mirror target, a
//! tracer, an access log, ext_authz, a rate limiter, JWKS: what is missing there is never asked for
//! and silently lost (FACTS, trap 1). They are found by reference, not by a list of filters: any
//! cluster name anywhere in the bytes counts, except where on-demand is known to cover it.

use crate::cluster::{OUTBOUND, OutboundName};
use crate::wire::{self, Edit, Error};
use memchr::memmem::Finder;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What a resource refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Names of outbound clusters.
    pub names: BTreeSet<String>,
    /// Something picks a cluster in a way that only the request tells, and on-demand does not
    /// cover: nothing may be held then.
    pub unknowable: bool,
}

impl Found {
    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Self) {
        self.names.extend(other.names);
        self.unknowable |= other.unknowable;
    }
}

/// Made once: most of what is searched is a record of a few bytes.
static BEGINNING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(OUTBOUND));

/// All names of outbound clusters in these bytes, wherever they stand: as a protobuf string, or
/// inside a script or a JSON text.
pub fn anywhere(bytes: &[u8], found: &mut Found) {
    for at in BEGINNING.find_iter(bytes) {
        if let Some(name) = by_length(bytes, at) {
            found.names.insert(name.to_owned());
        }
        // A text has no length in front, and a byte that happens to look like one may lie there:
        // both readings count, since a name too many only costs memory.
        if let Some(name) = by_letters(&bytes[at..]) {
            found.names.insert(name.to_owned());
        }
    }
}

/// The name as the length in front of it says.
fn by_length(bytes: &[u8], at: usize) -> Option<&str> {
    let last = usize::from(*bytes.get(at.checked_sub(1)?)?);
    // One byte of length, or two (the first with its high bit set): names end at 16,383 bytes.
    let before = at.checked_sub(2).map_or(0, |i| usize::from(bytes[i]));
    let lengths = [
        Some(last),
        (before >= 0x80).then_some((before & 0x7f) | (last << 7)),
    ];
    lengths
        .into_iter()
        .flatten()
        .filter(|_| last < 0x80)
        .find_map(|length| {
            let name = std::str::from_utf8(bytes.get(at..at.checked_add(length)?)?).ok()?;
            plain(name).then_some(name)
        })
}

/// The name as far as its letters go.
fn by_letters(bytes: &[u8]) -> Option<&str> {
    let end = bytes
        .iter()
        .position(|b| !is_letter(*b))
        .unwrap_or(bytes.len());
    let name = std::str::from_utf8(&bytes[..end])
        .ok()?
        .trim_end_matches('.');
    plain(name).then_some(name)
}

fn plain(name: &str) -> bool {
    name.bytes().all(is_letter) && OutboundName::parse(name).is_some()
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"|.-_*".contains(&byte)
}

/// Names a route configuration refers to beside the clusters its routes pick.
///
/// Field numbers: envoy/config/route/v3/route.proto (virtual_hosts = 2) and
/// route_components.proto (VirtualHost.routes = 3; Route.route = 2; RouteAction.cluster = 1,
/// weighted_clusters = 3 with clusters = 1 with name = 1).
///
/// # Errors
/// When the bytes are not such a message.
pub fn beside_routes(route_configuration: &[u8]) -> Result<Found, Error> {
    let mut found = Found::default();
    // RouteConfiguration.request_mirror_policies = 13, VirtualHost.request_mirror_policies = 22.
    found.unknowable |= mirrors_by_header(route_configuration, 13)?;
    visit(route_configuration, 2, &mut found, |virtual_host, found| {
        found.unknowable |= mirrors_by_header(virtual_host, 22)?;
        visit(virtual_host, 3, found, |route, found| {
            visit(route, 2, found, |action, found| {
                found.unknowable |= mirrors_by_header(action, 30)?;
                beside_picked(action, 1, 3, found)
            })
        })
    })?;
    Ok(found)
}

/// Whether the RequestMirrorPolicy records in a field name a cluster_header (5). RouteAction has them
/// in field 30.
fn mirrors_by_header(message: &[u8], policies: u32) -> Result<bool, Error> {
    wire::each(message, policies).try_fold(false, |seen, policy| {
        Ok(seen || !wire::string(policy?, 5)?.is_empty())
    })
}

/// Names a TCP proxy refers to beside the clusters it picks. Field numbers:
/// envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto (stat_prefix = 1, which istiod
/// fills with the cluster's name; cluster = 2; weighted_clusters = 10 with clusters = 1).
///
/// # Errors
/// When the bytes are not such a message.
pub fn beside_tcp_proxy(tcp_proxy: &[u8]) -> Result<Found, Error> {
    let mut found = Found::default();
    let kept = wire::edit::<Error>(tcp_proxy, |field| {
        Ok(if field.number == 1 {
            Edit::Drop
        } else {
            Edit::Keep
        })
    })?;
    beside_picked(kept.as_deref().unwrap_or(tcp_proxy), 2, 10, &mut found)?;
    Ok(found)
}

/// Looks anywhere but in `cluster` and in the names of `weighted`'s clusters.
fn beside_picked(
    action: &[u8],
    cluster: u32,
    weighted: u32,
    found: &mut Found,
) -> Result<(), Error> {
    for field in wire::fields(action) {
        let field = field?;
        match field.bytes() {
            Some(_) if field.number == cluster => {}
            Some(list) if field.number == weighted => visit(list, 1, found, |entry, found| {
                visit(entry, 1, found, |_name, _| Ok(()))
            })?,
            _ => anywhere(field.record, found),
        }
    }
    Ok(())
}

/// Gives each payload of field `number` to `into`, and looks anywhere in the other records.
fn visit(
    message: &[u8],
    number: u32,
    found: &mut Found,
    mut into: impl FnMut(&[u8], &mut Found) -> Result<(), Error>,
) -> Result<(), Error> {
    for field in wire::fields(message) {
        let field = field?;
        match field.bytes() {
            Some(payload) if field.number == number => into(payload, found)?,
            _ => anywhere(field.record, found),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
