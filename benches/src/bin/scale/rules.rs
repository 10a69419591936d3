//! What istiod does on one delta stream: which request is answered with what, and what a push sends. The rules are those
//! of the tests' embedded control plane (`mesh_tests::embedded::session`); that one keeps every name of every stream and
//! makes every message anew, this one neither.

use std::collections::BTreeSet;

use xds_shim::ads::{self, DeltaRequest, WILDCARD};

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Clusters,
    Endpoints,
    Listeners,
    Routes,
}

impl Kind {
    /// In the order that istiod pushes them in.
    pub(crate) const ALL: [Self; 4] = [
        Self::Clusters,
        Self::Endpoints,
        Self::Listeners,
        Self::Routes,
    ];

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Clusters => ads::CDS,
            Self::Endpoints => ads::EDS,
            Self::Listeners => ads::LDS,
            Self::Routes => ads::RDS,
        }
    }

    pub(crate) fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Whether requests for it mean everything, whatever names they list.
    pub(crate) fn is_wildcard(self) -> bool {
        matches!(self, Self::Clusters | Self::Listeners)
    }
}

/// What a response holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    All,
    Names(Vec<String>),
}

/// A response to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) what: What,
    pub(crate) nonce: String,
}

/// Something to push.
#[derive(Clone, Debug)]
pub(crate) enum Push {
    /// Everything again.
    Everything,
    /// The endpoints of these clusters.
    Endpoints(Vec<String>),
}

/// What a proxy has asked for, of one type.
#[derive(Debug, Default)]
struct Watch {
    /// Asked for by name.
    names: BTreeSet<String>,
    /// Of the last response; empty before it.
    nonce: String,
    acknowledged: bool,
}

/// One stream's state.
#[derive(Debug, Default)]
pub(crate) struct Session {
    watches: [Option<Watch>; Kind::ALL.len()],
    /// Responses made.
    sequence: u64,
}

impl Session {
    /// The responses to a request, in order.
    ///
    /// # Errors
    /// The text of a refusal.
    pub(crate) fn on_request(
        &mut self,
        request: &DeltaRequest,
        version: u64,
    ) -> Result<Vec<Answer>, String> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Ok(Vec::new()); // istiod answers other types with nothing here
        };
        if let Some(status) = &request.error_detail {
            return Err(ads::status_message(status));
        }
        let asked: BTreeSet<String> = request
            .subscribe
            .iter()
            .filter(|name| *name != WILDCARD)
            .cloned()
            .collect();
        let watch = &mut self.watches[kind as usize];
        let what = match watch {
            None => {
                *watch = Some(Watch {
                    names: asked.clone(),
                    ..Watch::default()
                });
                named(kind, asked)
            }
            // Of a response before the last one.
            Some(watch) if !request.nonce.is_empty() && request.nonce != watch.nonce => None,
            Some(watch) => {
                watch.acknowledged |= !request.nonce.is_empty();
                for name in &request.unsubscribe {
                    watch.names.remove(name);
                }
                watch.names.extend(asked.iter().cloned());
                match request.subscribe.is_empty() {
                    true => None, // an acknowledgement, or only unsubscribing
                    false => named(kind, asked),
                }
            }
        };
        let mut answers: Vec<Answer> = what
            .into_iter()
            .map(|what| self.answer(kind, what, version))
            .collect();
        if kind == Kind::Clusters && !answers.is_empty() {
            // istiod forces all watched endpoints after any cluster request: Envoy may not ask again.
            let endpoints = self.watched(Kind::Endpoints);
            answers.extend(endpoints.map(|what| self.answer(Kind::Endpoints, what, version)));
        }
        Ok(answers)
    }

    /// The responses that a push sends.
    pub(crate) fn on_push(&mut self, push: &Push, version: u64) -> Vec<Answer> {
        let whats: Vec<(Kind, What)> = match push {
            Push::Everything => Kind::ALL
                .into_iter()
                .filter_map(|kind| Some((kind, self.watched(kind)?)))
                .collect(),
            Push::Endpoints(names) => {
                let watch = self.watches[Kind::Endpoints as usize].as_ref();
                let watched = watch.map(|watch| &watch.names);
                let is_watched =
                    |name: &&String| watched.is_some_and(|all| all.contains(name.as_str()));
                let names: Vec<String> = names.iter().filter(is_watched).cloned().collect();
                let some = (!names.is_empty()).then_some(What::Names(names));
                some.into_iter()
                    .map(|what| (Kind::Endpoints, what))
                    .collect()
            }
        };
        let answers = whats.into_iter();
        answers
            .map(|(kind, what)| self.answer(kind, what, version))
            .collect()
    }

    /// Whether all four types have been asked for, answered and acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        let settled = |watch: &Option<Watch>| watch.as_ref().is_some_and(|one| one.acknowledged);
        self.watches.iter().all(settled)
    }

    /// Whatever is watched of a type.
    fn watched(&self, kind: Kind) -> Option<What> {
        let watch = self.watches[kind as usize].as_ref()?;
        named(kind, watch.names.clone())
    }

    fn answer(&mut self, kind: Kind, what: What, version: u64) -> Answer {
        self.sequence += 1;
        let nonce = format!("{version}/{}", self.sequence);
        if let Some(watch) = &mut self.watches[kind as usize] {
            watch.nonce.clone_from(&nonce);
            watch.acknowledged = false;
        }
        Answer { kind, what, nonce }
    }
}

/// All of a wildcard type; of another one these names, if there are any.
fn named(kind: Kind, names: BTreeSet<String>) -> Option<What> {
    if kind.is_wildcard() {
        return Some(What::All);
    }
    (!names.is_empty()).then(|| What::Names(names.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: Kind, subscribe: &[&str], nonce: &str) -> DeltaRequest {
        DeltaRequest {
            type_url: kind.url().into(),
            subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
            nonce: nonce.into(),
            ..DeltaRequest::default()
        }
    }

    fn names(all: &[&str]) -> What {
        What::Names(all.iter().map(|name| (*name).into()).collect())
    }

    fn whats(answers: Vec<Answer>) -> Vec<(Kind, What)> {
        answers
            .into_iter()
            .map(|one| (one.kind, one.what))
            .collect()
    }

    #[test]
    fn wildcards_are_answered_with_all_and_names_with_these() {
        let mut session = Session::default();
        let clusters = session.on_request(&request(Kind::Clusters, &["*"], ""), 1);
        assert_eq!(whats(clusters.unwrap()), [(Kind::Clusters, What::All)]);
        let endpoints = session.on_request(&request(Kind::Endpoints, &["b", "a"], ""), 1);
        assert_eq!(
            whats(endpoints.unwrap()),
            [(Kind::Endpoints, names(&["a", "b"]))]
        );
        let more = session.on_request(&request(Kind::Endpoints, &["c"], ""), 1);
        assert_eq!(whats(more.unwrap()), [(Kind::Endpoints, names(&["c"]))]);
        // Any cluster request that is answered has all watched endpoints behind it.
        let again = session.on_request(&request(Kind::Clusters, &["x"], ""), 1);
        let both = [
            (Kind::Clusters, What::All),
            (Kind::Endpoints, names(&["a", "b", "c"])),
        ];
        assert_eq!(whats(again.unwrap()), both);
    }

    #[test]
    fn a_stream_is_settled_once_the_last_response_of_each_type_is_acknowledged() {
        let mut session = Session::default();
        let mut nonces = Vec::new();
        for kind in Kind::ALL {
            let answers = session.on_request(&request(kind, &["a"], ""), 1).unwrap();
            nonces.push((kind, answers[0].nonce.clone()));
        }
        for (kind, nonce) in &nonces {
            assert!(!session.is_settled());
            let answers = session.on_request(&request(*kind, &[], nonce), 1);
            assert_eq!(answers.unwrap(), []);
        }
        assert!(session.is_settled());
        let pushed = session.on_push(&Push::Endpoints(vec!["a".into(), "z".into()]), 2);
        assert_eq!(whats(pushed.clone()), [(Kind::Endpoints, names(&["a"]))]);
        assert!(!session.is_settled());
        // What acknowledges an earlier response does not count.
        let stale = session.on_request(&request(Kind::Endpoints, &[], &nonces[1].1), 2);
        assert!(stale.unwrap().is_empty() && !session.is_settled());
        let last = session.on_request(&request(Kind::Endpoints, &[], &pushed[0].nonce), 2);
        assert!(last.unwrap().is_empty() && session.is_settled());
    }

    #[test]
    fn a_push_sends_what_is_watched() {
        let mut session = Session::default();
        assert!(session.on_push(&Push::Everything, 1).is_empty());
        for kind in [Kind::Routes, Kind::Clusters] {
            session.on_request(&request(kind, &["80"], ""), 1).unwrap();
        }
        let pushed = session.on_push(&Push::Everything, 2);
        let both = [(Kind::Clusters, What::All), (Kind::Routes, names(&["80"]))];
        assert_eq!(whats(pushed), both);
        let unused = Push::Endpoints(vec!["80".into()]);
        assert!(session.on_push(&unused, 3).is_empty());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut session = Session::default();
        let refusal = DeltaRequest {
            error_detail: Some(bytes::Bytes::from_static(b"\x12\x02no")),
            ..request(Kind::Clusters, &[], "1/1")
        };
        assert_eq!(session.on_request(&refusal, 1), Err("no".into()));
    }
}
