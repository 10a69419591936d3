//! State-of-the-world ADS on top of the watches.

use super::{Answer, IDENTIFIER, Session, Watch, is_wildcard_type};
use crate::embedded::resources::{CDS, EDS, Push, Scope, Snapshot};
use std::collections::BTreeSet;
use xds_shim::envoy::config::core::v3::ControlPlane;
use xds_shim::envoy::google::protobuf::Any;
use xds_shim::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

impl Session {
    /// The responses to a state-of-the-world request.
    pub fn on_sotw_request(
        &mut self,
        request: &DiscoveryRequest,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<DiscoveryResponse> {
        let url = request.type_url.as_str();
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        let wildcard = is_wildcard_type(url) || names.is_empty();
        let added = match self.watches.get_mut(url) {
            None => {
                let watch = Watch {
                    names: names.clone(),
                    wildcard,
                    nonce: String::new(),
                };
                self.watches.insert(url.to_owned(), watch);
                names
            }
            Some(_) if request.error_detail.is_some() => return vec![],
            Some(watch)
                if !request.response_nonce.is_empty() && request.response_nonce != watch.nonce =>
            {
                return vec![];
            }
            // What the proxy lists is all it wants; only what is new is a reason to answer.
            Some(_) if wildcard => return vec![],
            Some(watch) => {
                let added: BTreeSet<_> = names.difference(&watch.names).cloned().collect();
                watch.names = names;
                if added.is_empty() {
                    return vec![];
                }
                added
            }
        };
        // Endpoints and routes may come in part; all other types come whole.
        let answer = match wildcard {
            true => self.watched(url, snapshot),
            false => Self::by_name(url, &added, snapshot),
        };
        let mut answers: Vec<_> = answer.into_iter().collect();
        if url == CDS {
            answers.extend(self.watched(EDS, snapshot));
        }
        self.sotw_responses(answers, version)
    }

    /// The responses that a push sends on a state-of-the-world stream: wildcard types come whole.
    pub fn on_sotw_push(
        &mut self,
        push: &Push,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<DiscoveryResponse> {
        let whole = |(url, scope): (&String, &Scope)| {
            let scope = if is_wildcard_type(url) {
                Scope::All
            } else {
                scope.clone()
            };
            (url.clone(), scope)
        };
        let answers = self.pushed(&push.iter().map(whole).collect(), snapshot);
        self.sotw_responses(answers, version)
    }

    fn sotw_responses(&mut self, answers: Vec<Answer>, version: u64) -> Vec<DiscoveryResponse> {
        answers
            .into_iter()
            .map(|answer| self.sotw_response(answer, version))
            .collect()
    }

    fn sotw_response(&mut self, answer: Answer, version: u64) -> DiscoveryResponse {
        let nonce = self.nonce(&answer.type_url, version);
        let body = |(_, body): (String, bytes::Bytes)| Any {
            type_url: answer.type_url.clone(),
            value: body.into(),
        };
        DiscoveryResponse {
            version_info: version.to_string(),
            resources: answer.resources.into_iter().map(body).collect(),
            type_url: answer.type_url.clone(),
            nonce,
            control_plane: Some(ControlPlane {
                identifier: IDENTIFIER.to_owned(),
            }),
            ..Default::default()
        }
    }
}
