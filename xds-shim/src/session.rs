//! One on-demand stream: what istiod sent, what its proxy is given, what it is owed.
//!
//! Pure and synchronous: messages go in, messages come out; sockets and clocks are elsewhere. Upstream
//! the session asks as a proxy that holds nothing, so that istiod's idea of the stream does not
//! depend on what is held back; downstream it sends what the proxy lacks. Names the proxy asks for
//! on demand never go upstream: any cluster request makes istiod send everything again (FACTS,
//! traps 2 and 6).

mod clusters;
mod connections;
mod earlier;
mod ledger;
mod listeners;
mod named;
mod outbound;
mod snapshot;
mod stand_ins;

use crate::admitted::Admitted;
use crate::ads::{self, DeltaRequest, DeltaResponse};
use crate::cluster::{OutboundName, ServicePort};
use crate::listener::OnDemandConfig;
use crate::references::{self, Found};
use crate::route_names::RouteNames;
use crate::store::{Store, Version};
use crate::wire;
use bytes::Bytes;
use connections::Listeners;
use dependency_graph::{Dependency, Port, Protocol, host};
use ledger::{Ledger, Settled};
use memchr::memmem;
use outbound::Outbound;
use stand_ins::StandIns;
pub use stand_ins::{LINGER, MOST_NOBODYS};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How many names that istiod does not know a proxy may ask for on one stream.
pub const MOST_UNKNOWN_NAMES: usize = 10_000;
/// How long a cluster's name may be; Kubernetes' and Istio's own end at some 350.
pub const MOST_NAME_BYTES: usize = 1024;
/// How many responses of one type a proxy may leave unacknowledged.
pub const MOST_OPEN_RESPONSES: usize = 10_000;

/// What Envoy's words about a refused listener have in them if our edit may be at fault: `envoy.filters.http.on_demand`,
/// the field of the TCP proxy, the extension that writes our header, or a listener that stands for others.
const EDITS: [&str; 4] = [
    "on_demand",
    "early_header_mutation",
    "virtualOutbound",
    "lazyin|",
];

/// Why a stream cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A message that is not one.
    #[error("a message of {from} is not valid: {error}")]
    Decode {
        /// Whose it is: the proxy's or istiod's.
        from: &'static str,
        /// What is wrong with it.
        error: wire::Error,
    },
    /// The proxy's Envoy was built or started without what a held call needs.
    #[error("the proxy refused what was made to ask on demand: {0}")]
    CannotAsk(String),
    /// The proxy takes responses and never answers them.
    #[error("the proxy left more than {MOST_OPEN_RESPONSES} responses unacknowledged")]
    TooManyOpenResponses,
}

/// What is to be done about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// An encoded `DeltaDiscoveryResponse` for the proxy.
    ToProxy(Bytes),
    /// An encoded `DeltaDiscoveryRequest` for istiod.
    ToIstiod(Bytes),
    /// The proxy asked for a service on demand.
    Asked(Ask),
    /// The proxy refused a response, for this reason.
    Nack(&'static str, String),
}

/// A service a proxy asked for on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What it asked for.
    pub service: ServicePort,
    /// How it is going to speak to it.
    pub protocol: Protocol,
    /// Whether it asked just now; otherwise on an earlier stream, at a time nobody knows.
    pub now: bool,
}

impl Ask {
    /// The edge it teaches.
    ///
    /// # Errors
    /// What about the name is not one the graph takes.
    pub fn dependency(&self) -> Result<Dependency, String> {
        Ok(Dependency {
            host: self
                .service
                .host
                .parse()
                .map_err(|e: host::Error| e.to_string())?,
            port: Port::try_from(u32::from(self.service.port)).map_err(|e| e.to_string())?,
            protocol: self.protocol,
        })
    }
}

/// Counts for the eyes of an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Outbound clusters kept back.
    pub held: usize,
    /// Outbound clusters the proxy has.
    pub admitted: usize,
    /// Clusters the proxy asked for that istiod does not know.
    pub unknown: usize,
    /// Listeners kept back.
    pub held_listeners: usize,
    /// Copies of clusters that first calls run on, or ran on a moment ago.
    pub copies: usize,
    /// Why nothing is held, where that is so.
    pub whole: Option<&'static str>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    config: OnDemandConfig,
    store: Store,
    node: Option<Bytes>,
    nonces: u64,
    admitted: Admitted,
    /// Clusters asked for by name, on this stream or an earlier one of the same Envoy.
    asked: HashSet<Box<str>>,
    /// Those of them that istiod does not have, given when it does; and whether they were asked for
    /// on this stream.
    unknown: HashMap<Box<str>, bool>,
    /// Whether the proxy asked for something on this stream while it ran: it is past its start.
    running: bool,
    /// What was asked for on an earlier stream and is not yet said.
    unreported: Vec<(Box<str>, ServicePort, bool)>,
    /// Set when something makes holding impossible: everything is given.
    whole: Option<&'static str>,
    clusters: Ledger,
    outbound: Outbound,
    endpoints: Ledger,
    listeners: Ledger,
    routes: Ledger,
    /// What the version of a proxy's endpoints depends on beside their content: the cluster.
    cluster_of_endpoints: HashMap<Box<str>, Version>,
    lazy_routes: BTreeSet<String>,
    plain_routes: BTreeSet<String>,
    /// What is likely to be used, and what was asked for because of that and is not known to be used.
    likely_routes: RouteNames,
    guessed_routes: BTreeSet<String>,
    stand_ins: StandIns,
    singles: Listeners,
    /// Services a request was answered for, whose clusters and virtual hosts the proxy may lack.
    services_due: BTreeSet<ServicePort>,
    /// Services were admitted whose virtual hosts the proxy may lack.
    routes_due: bool,
    /// What calls fall back to: nobody learns that.
    fallbacks: BTreeSet<ServicePort>,
    /// EDS names of clusters that were given because something refers to them, and are not answered.
    awaited: HashSet<Box<str>>,
    /// Responses that refer to clusters whose endpoints are awaited, and what must not overtake them.
    held_back: Vec<Bytes>,
    /// The proxy's words about what was put into its listeners.
    cannot_ask: Option<String>,
    out: Vec<Output>,
}

impl Session {
    /// A stream that has not said anything yet. `known`: what its workload is known to use.
    pub fn new(
        store: Store,
        config: OnDemandConfig,
        known: impl IntoIterator<Item = ServicePort>,
    ) -> Self {
        let mut admitted = Admitted::default();
        for service in known {
            admitted.insert(service);
        }
        Self {
            config,
            store,
            node: None,
            nonces: 0,
            admitted,
            asked: HashSet::new(),
            unknown: HashMap::new(),
            running: false,
            unreported: Vec::new(),
            whole: None,
            clusters: Ledger::new(ads::CDS),
            outbound: Outbound::default(),
            endpoints: Ledger::new(ads::EDS),
            listeners: Ledger::new(ads::LDS),
            routes: Ledger::new(ads::RDS),
            cluster_of_endpoints: HashMap::new(),
            lazy_routes: BTreeSet::new(),
            plain_routes: BTreeSet::new(),
            likely_routes: RouteNames::default(),
            guessed_routes: BTreeSet::new(),
            stand_ins: StandIns::default(),
            singles: Listeners::default(),
            services_due: BTreeSet::new(),
            routes_due: false,
            fallbacks: BTreeSet::new(),
            awaited: HashSet::new(),
            held_back: Vec::new(),
            cannot_ask: None,
            out: Vec::new(),
        }
    }

    /// The same that knows what other streams of its namespace asked for.
    #[must_use]
    pub fn expecting(mut self, likely_routes: RouteNames) -> Self {
        self.likely_routes = likely_routes;
        self
    }

    /// Takes in a message of the proxy's.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub fn on_request(&mut self, raw: &Bytes) -> Result<Vec<Output>, Error> {
        let mut request = DeltaRequest::decode(raw).map_err(|error| Error::Decode {
            from: "the proxy",
            error,
        })?;
        if let Some(node) = request.node.take() {
            self.node = Some(node);
        }
        match request.type_url.as_str() {
            ads::CDS => self.clusters_asked(&request),
            ads::EDS => self.named_asked(&request, |s| &mut s.endpoints),
            ads::LDS => self.listeners_asked(&request),
            ads::RDS => self.named_asked(&request, |s| &mut s.routes),
            _ => {
                // The node went along in the message itself, if this was the first.
                self.node = None;
                self.out.push(Output::ToIstiod(raw.clone()));
            }
        }
        if matches!(request.type_url.as_str(), ads::LDS | ads::RDS) {
            // What nothing leads to any longer is known by its listeners and routes.
            self.answer_requests();
        }
        if !request.nonce.is_empty() && !self.services_due.is_empty() {
            self.give_services_due();
        }
        self.finish()
    }

    /// Takes in a message of istiod's.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub fn on_response(&mut self, raw: &Bytes) -> Result<Vec<Output>, Error> {
        let response = DeltaResponse::decode(raw).map_err(|error| Error::Decode {
            from: "istiod",
            error,
        })?;
        match response.type_url.as_str() {
            ads::CDS => self.clusters_came(&response),
            ads::EDS => self.endpoints_came(&response),
            ads::LDS => self.listeners_came(&response),
            ads::RDS => self.routes_came(&response),
            _ => {
                let mut found = Found::default();
                references::anywhere(raw, &mut found);
                self.keep_referenced(&found);
                self.give_behind_referenced(raw.clone());
            }
        }
        self.finish()
    }

    /// What is to be done about the message that was just taken in.
    fn finish(&mut self) -> Result<Vec<Output>, Error> {
        if let Some(why) = self.cannot_ask.take() {
            return Err(Error::CannotAsk(why));
        }
        if !self.unreported.is_empty() {
            self.report_late();
        }
        self.give_routes_due();
        let open = [
            &self.clusters,
            &self.endpoints,
            &self.listeners,
            &self.routes,
        ];
        if open
            .iter()
            .any(|l| l.open_responses() > MOST_OPEN_RESPONSES)
        {
            return Err(Error::TooManyOpenResponses);
        }
        Ok(std::mem::take(&mut self.out))
    }

    /// Gives the proxy services it has not asked for on this stream.
    pub fn admit(&mut self, services: impl IntoIterator<Item = ServicePort>) -> Vec<Output> {
        let mut new = false;
        for service in services {
            new |= self.admitted.insert(service);
        }
        if new {
            self.give_admitted();
        }
        self.give_routes_due();
        std::mem::take(&mut self.out)
    }

    /// Counts for the eyes of an operator.
    pub fn summary(&self) -> Summary {
        let names = self.clusters.proxy.keys();
        let given = names
            .filter(|n| crate::cluster::is_holdable(n) && self.clusters.get(n).is_some())
            .count();
        Summary {
            held: self.outbound.count().saturating_sub(given),
            admitted: given,
            unknown: self.unknown.len(),
            held_listeners: self.held_listeners(),
            copies: self.copies(),
            whole: self.whole,
        }
    }

    /// Keeps what something refers to that does not ask on demand; ahead of what refers to it.
    fn keep_referenced(&mut self, found: &Found) {
        let mut new = false;
        if found.unknowable && self.whole.is_none() {
            self.whole = Some("a mirror's target is named by a header");
            new = true;
        }
        for name in &found.names {
            if let Some(name) = OutboundName::parse(name) {
                new |= !self.admitted.contains(&name) && self.admitted.insert(name.service_port());
            }
        }
        if new {
            self.give_admitted();
            self.await_endpoints(found);
        }
    }

    /// Gives what calls fall back to before it is asked for.
    fn give_fallbacks(&mut self, names: &[String]) {
        let names = names.iter().filter_map(|name| OutboundName::parse(name));
        let mut new = false;
        for service in names.map(|name| name.service_port()) {
            new |= self.admitted.insert(service.clone());
            self.fallbacks.insert(service);
        }
        if new {
            self.give_admitted();
        }
    }

    /// What refers to a cluster waits for its endpoints: Envoy refuses a listener whose access log
    /// names a cluster that is not active yet, and loses a mirror to one. istiod answers every name.
    fn await_endpoints(&mut self, found: &Found) {
        for name in &found.names {
            let stored = self.clusters.get(name);
            if let Some(Ok(Some(eds))) = stored.map(|s| crate::cluster::eds_name(&s.raw))
                && self.endpoints.get(eds).is_none()
            {
                self.awaited.insert(eds.into());
            }
        }
    }

    /// Sends a response that may refer to clusters, in its turn.
    fn give_behind_referenced(&mut self, response: Bytes) {
        if self.awaited.is_empty() {
            self.out.push(Output::ToProxy(response));
        } else {
            self.held_back.push(response);
        }
    }

    /// Endpoints came: what waited for them goes out behind them.
    fn release(&mut self, names: impl Iterator<Item = impl AsRef<str>>) {
        if self.awaited.is_empty() {
            return;
        }
        for name in names {
            self.awaited.remove(name.as_ref());
        }
        if self.awaited.is_empty() {
            self.out
                .extend(self.held_back.drain(..).map(Output::ToProxy));
            self.answer_requests();
        }
    }

    /// Books an acknowledgement and passes it on.
    fn settle(&mut self, request: &DeltaRequest, ledger: fn(&mut Self) -> &mut Ledger) {
        if request.nonce.is_empty() {
            return;
        }
        let books = ledger(self);
        let type_url = books.type_url;
        let answer = books.request();
        match books.settle(request) {
            Settled::Nothing | Settled::Acked(None) => {}
            Settled::Acked(Some(nonce)) => self.ask_istiod(DeltaRequest { nonce, ..answer }),
            Settled::Nacked(nonce) => {
                let detail = request.error_detail.as_deref().unwrap_or_default();
                let why = ads::status_message(detail);
                // Any other refusal is what plain Istio would have met as well.
                let ours = |edit: &str| memmem::find(detail, edit.as_bytes()).is_some();
                let listener = type_url == ads::LDS && EDITS.iter().any(|e| ours(e));
                // Without them the names that are held would lead nowhere.
                let routes = type_url == ads::RDS && self.holds_any_virtual_host();
                if listener || routes {
                    self.cannot_ask = Some(why.clone());
                }
                self.out.push(Output::Nack(type_url, why));
                let error_detail = request.error_detail.clone();
                if !nonce.is_empty() {
                    self.ask_istiod(DeltaRequest {
                        nonce,
                        error_detail,
                        ..answer
                    });
                }
            }
        }
    }

    /// Acknowledges a response of istiod's of which the proxy needs nothing.
    fn acknowledge(&mut self, type_url: &str, nonce: &str) {
        let request = DeltaRequest {
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            ..DeltaRequest::default()
        };
        self.ask_istiod(request);
    }

    /// Sends a request upstream; the first carries the node.
    fn ask_istiod(&mut self, mut request: DeltaRequest) {
        request.node = self.node.take();
        self.out.push(Output::ToIstiod(request.encode()));
    }

    fn nonce(&mut self) -> String {
        self.nonces += 1;
        format!("lazymesh-{}", self.nonces)
    }
}

#[cfg(test)]
mod tests;
