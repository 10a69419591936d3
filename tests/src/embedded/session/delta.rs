//! Delta ADS on top of the watches.

use super::{Answer, IDENTIFIER, Session, Watch, is_wildcard_type};
use crate::embedded::resources::{CDS, EDS, Push, Snapshot};
use std::collections::BTreeSet;
use xds_shim::envoy::config::core::v3::ControlPlane;
use xds_shim::envoy::google::protobuf::Any;
use xds_shim::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};

const WILDCARD: &str = "*";

impl Session {
    /// The responses to a delta request, in order. `version` is that of the push the snapshot stems from.
    pub fn on_delta_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<DeltaDiscoveryResponse> {
        let url = request.type_url.as_str();
        let answer = match self.watches.get_mut(url) {
            None => self.first_request(request, snapshot),
            // A NACK is only noted; nothing is sent again.
            Some(_) if request.error_detail.is_some() => None,
            Some(watch)
                if !request.response_nonce.is_empty() && request.response_nonce != watch.nonce =>
            {
                None
            }
            Some(_) => self.later_request(request, snapshot),
        };
        let answered = answer.is_some();
        let mut answers: Vec<_> = answer.into_iter().collect();
        if url == CDS && answered {
            // istiod forces all watched endpoints after any cluster request: Envoy may not ask again.
            answers.extend(self.watched(EDS, snapshot));
        }
        self.delta_responses(answers, version)
    }

    /// The responses that a push sends on a delta stream.
    pub fn on_delta_push(
        &mut self,
        push: &Push,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<DeltaDiscoveryResponse> {
        let answers = self.pushed(push, snapshot);
        self.delta_responses(answers, version)
    }

    fn first_request(&mut self, request: &DeltaDiscoveryRequest, at: &Snapshot) -> Option<Answer> {
        let url = &request.type_url;
        let subscribed = &request.resource_names_subscribe;
        let mut names: BTreeSet<String> = subscribed.iter().cloned().collect();
        names.extend(request.initial_resource_versions.keys().cloned());
        request
            .resource_names_unsubscribe
            .iter()
            .for_each(|name| _ = names.remove(name));
        let wildcard = names.remove(WILDCARD) || subscribed.is_empty();
        self.watches.insert(
            url.clone(),
            Watch {
                names,
                wildcard,
                nonce: String::new(),
            },
        );
        self.watched(url, at)
    }

    fn later_request(&mut self, request: &DeltaDiscoveryRequest, at: &Snapshot) -> Option<Answer> {
        let url = request.type_url.as_str();
        let watch = self.watches.get_mut(url)?;
        let mut asked: BTreeSet<String> =
            request.resource_names_subscribe.iter().cloned().collect();
        watch.wildcard |= asked.remove(WILDCARD);
        request
            .resource_names_unsubscribe
            .iter()
            .for_each(|name| _ = watch.names.remove(name));
        watch.names.extend(asked.iter().cloned());
        if request.resource_names_subscribe.is_empty() {
            return None; // an ACK, or only unsubscribing
        }
        if is_wildcard_type(url) {
            return self.everything(url, at);
        }
        Self::by_name(url, &asked, at)
    }

    fn delta_responses(
        &mut self,
        answers: Vec<Answer>,
        version: u64,
    ) -> Vec<DeltaDiscoveryResponse> {
        answers
            .into_iter()
            .map(|answer| self.delta_response(answer, version))
            .collect()
    }

    fn delta_response(&mut self, answer: Answer, version: u64) -> DeltaDiscoveryResponse {
        let nonce = self.nonce(&answer.type_url, version);
        let resource = |(name, body): (String, bytes::Bytes)| Resource {
            name,
            // istiod gives no versions.
            resource: Some(Any {
                type_url: answer.type_url.clone(),
                value: body.into(),
            }),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: version.to_string(),
            resources: answer.resources.into_iter().map(resource).collect(),
            type_url: answer.type_url.clone(),
            removed_resources: answer.removed,
            nonce,
            control_plane: Some(ControlPlane {
                identifier: IDENTIFIER.to_owned(),
            }),
            ..Default::default()
        }
    }
}
