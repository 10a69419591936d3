//! What istiod does on one ADS stream: which request is answered with what, and what a push sends.
//!
//! Pure; the rules are those of pilot/pkg/xds/{ads,delta}.go. Both variants of the protocol share the watches here:
//! `delta` and `sotw` read and write the messages.

mod delta;
mod sotw;

use super::resources::{CDS, EDS, LDS, PUSH_ORDER, Push, RDS, Scope, Snapshot};
use super::{endpoints, routes};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What a proxy has asked for, of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watch {
    /// Asked for by name; for a wildcard watch, what was sent.
    names: BTreeSet<String>,
    wildcard: bool,
    /// Of the last response.
    nonce: String,
}

/// One stream's state.
#[derive(Debug, Default)]
pub struct Session {
    watches: BTreeMap<String, Watch>,
    /// Responses made.
    sequence: u64,
}

/// Resources to send in one response.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    type_url: String,
    resources: Vec<(String, Bytes)>,
    removed: Vec<String>,
}

/// The JSON that istiod puts into `control_plane.identifier`.
const IDENTIFIER: &str =
    r#"{"Component":"istiod","ID":"istiod-embedded","Info":{"version":"1.31-embedded"}}"#;

impl Session {
    /// Everything of a type again, with what the proxy has and should not have as removed.
    fn everything(&mut self, type_url: &str, snapshot: &Snapshot) -> Option<Answer> {
        let watch = self.watches.get_mut(type_url)?;
        let table = snapshot.table(type_url)?;
        let resources: Vec<_> = table.iter().map(|(n, b)| (n.clone(), b.clone())).collect();
        let removed = watch
            .names
            .iter()
            .filter(|name| !table.contains_key(*name))
            .cloned();
        let removed = removed.collect();
        watch.names = table.keys().cloned().collect();
        Some(Answer {
            type_url: type_url.to_owned(),
            resources,
            removed,
        })
    }

    /// These names; one that is unknown is answered with an empty resource where istiod does so.
    fn by_name(type_url: &str, names: &BTreeSet<String>, snapshot: &Snapshot) -> Option<Answer> {
        let table = snapshot.table(type_url)?;
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in names {
            match table
                .get(name)
                .cloned()
                .or_else(|| placeholder(type_url, name))
            {
                Some(body) => resources.push((name.clone(), body)),
                None => removed.push(name.clone()),
            }
        }
        (!names.is_empty()).then(|| Answer {
            type_url: type_url.to_owned(),
            resources,
            removed,
        })
    }

    /// Whatever is watched of a type, again.
    fn watched(&mut self, type_url: &str, snapshot: &Snapshot) -> Option<Answer> {
        let watch = self.watches.get(type_url)?;
        if takes_everything(type_url, watch.wildcard) {
            self.everything(type_url, snapshot)
        } else {
            Self::by_name(type_url, &watch.names.clone(), snapshot)
        }
    }

    /// The answer to a push, one type at a time in istiod's order.
    fn pushed(&mut self, push: &Push, snapshot: &Snapshot) -> Vec<Answer> {
        let others = push
            .keys()
            .map(String::as_str)
            .filter(|url| !PUSH_ORDER.contains(url));
        let order: Vec<&str> = PUSH_ORDER.into_iter().chain(others).collect();
        let scoped = order
            .into_iter()
            .filter_map(|url| Some((url, push.get(url)?)));
        scoped
            .filter_map(|(url, scope)| self.pushed_type(url, scope, snapshot))
            .collect()
    }

    fn pushed_type(&mut self, url: &str, scope: &Scope, snapshot: &Snapshot) -> Option<Answer> {
        match scope {
            Scope::Nothing => None,
            Scope::All => self.watched(url, snapshot),
            Scope::Names(names) => {
                let watch = self.watches.get_mut(url)?;
                if takes_everything(url, watch.wildcard) {
                    let answer = Self::by_name(url, names, snapshot)?;
                    watch
                        .names
                        .extend(answer.resources.iter().map(|(name, _)| name.clone()));
                    answer
                        .removed
                        .iter()
                        .for_each(|name| _ = watch.names.remove(name));
                    Some(answer)
                } else {
                    let watched = names.intersection(&watch.names).cloned().collect();
                    Self::by_name(url, &watched, snapshot)
                }
            }
        }
    }

    /// Numbers a response and notes its nonce.
    fn nonce(&mut self, type_url: &str, version: u64) -> String {
        self.sequence += 1;
        let nonce = format!("{version}/{}", self.sequence);
        self.watches
            .entry(type_url.to_owned())
            .or_default()
            .nonce
            .clone_from(&nonce);
        nonce
    }
}

/// Types whose requests istiod takes as "everything", whatever names they list.
fn is_wildcard_type(type_url: &str) -> bool {
    matches!(type_url, CDS | LDS)
}

/// Whether a watch is answered with all there is of a type.
fn takes_everything(type_url: &str, wildcard: bool) -> bool {
    match type_url {
        EDS | RDS => false,
        other => wildcard || is_wildcard_type(other),
    }
}

/// What istiod answers for an unknown name, where it does not keep silent.
fn placeholder(type_url: &str, name: &str) -> Option<Bytes> {
    match type_url {
        EDS => Some(endpoints::empty(name).encode_to_vec().into()),
        RDS => Some(routes::empty(name).encode_to_vec().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
