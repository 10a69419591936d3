//! The session between both models: what each step does, and what must hold in the end.

use super::envoy::{Envoy, Slot, eds_of};
use super::find::{Call, End};
use super::mesh::{self, FALLBACKS, Istiod, Mesh, SLOTS, Service, Settled};
use super::*;
use crate::route_names::RouteNames;
use crate::stand_in::Name;
use crate::stand_in::tcp::Destination;
use std::collections::VecDeque;
use std::time::Instant;

/// Both models, a session between them, and what is on its way.
pub(super) struct World {
    mesh: Mesh,
    /// What the mesh was since all was settled last.
    history: Vec<Mesh>,
    istiod: Istiod,
    session: Session,
    store: Store,
    /// What sessions expect of listeners.
    likely: RouteNames,
    envoy: Envoy,
    for_proxy: VecDeque<Bytes>,
    for_istiod: VecDeque<Bytes>,
    learned: BTreeSet<ServicePort>,
    now: Instant,
    /// How long something may be on its way by now.
    on_the_way: Duration,
    /// Whether the stream is another one since all was settled last: what the proxy has is not known then.
    reconnected: bool,
}

/// How long Envoy holds a call.
const HOLDS: Duration = Duration::from_secs(5);

fn session(store: &Store, likely: &RouteNames, known: &BTreeSet<ServicePort>) -> Session {
    let config = OnDemandConfig::new(HOLDS);
    Session::new(store.clone(), config, known.iter().cloned()).expecting(likely.clone())
}

/// Of which one is right, and one is none.
fn likely_routes() -> RouteNames {
    let likely = RouteNames::default();
    likely.set(&["80", "8443"].map(str::to_owned).into());
    likely
}

fn call(slot: u8, port: u16, authority: Option<String>) -> Call {
    let to = Destination::new(mesh::address(slot).parse().unwrap(), port);
    Call {
        slot,
        to,
        authority,
    }
}

fn request(slot: u8, form: u8) -> Call {
    let name = match slot {
        SLOTS => "nobody".to_owned(),
        slot => format!("s{slot}"),
    };
    let (port, authority) = match form {
        0 => (80, format!("{name}.shop")),
        1 => (80, format!("{}.shop:80", name.to_uppercase())),
        2 => (80, name),
        _ => (3306, format!("{name}.shop:3306")),
    };
    call(slot, port, Some(authority))
}

/// An Envoy that has all of a mesh's config, as it has without us.
fn plain(mesh: &Mesh) -> Envoy {
    let mut envoy = Envoy::default();
    for (name, resource) in mesh.of_type(ads::CDS) {
        let slot = Slot {
            active: resource.resource,
            warming: None,
        };
        envoy.clusters.insert(name, slot);
    }
    for (name, resource) in mesh.of_type(ads::LDS) {
        let listener = lds::Listener::decode(&*resource.resource.unwrap().value).unwrap();
        let slot = Slot {
            active: Some(listener),
            warming: None,
        };
        envoy.listeners.insert(name, slot);
    }
    for (name, resource) in mesh.of_type(ads::RDS) {
        let config = rds::RouteConfiguration::decode(&*resource.resource.unwrap().value).unwrap();
        envoy.routes.insert(name, (config, String::new()));
    }
    envoy
}

impl World {
    pub(super) fn new(services: [Service; SLOTS as usize]) -> Self {
        let mesh = Mesh {
            services,
            settled: Settled::No,
            given: Default::default(),
            clusters: Default::default(),
            endpoints: Default::default(),
        };
        let (store, likely) = (Store::default(), likely_routes());
        let mut world = Self {
            history: vec![mesh.clone()],
            istiod: Istiod::new(&mesh),
            mesh,
            session: session(&store, &likely, &BTreeSet::new()),
            likely,
            store,
            envoy: Envoy::default(),
            for_proxy: VecDeque::new(),
            for_istiod: VecDeque::new(),
            learned: BTreeSet::new(),
            now: Instant::now(),
            on_the_way: Duration::ZERO,
            reconnected: false,
        };
        world.envoy.connects();
        world
    }

    fn changes(&mut self) {
        self.history.push(self.mesh.clone());
    }

    fn takes(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::ToProxy(raw) => self.for_proxy.push_back(raw),
                Output::ToIstiod(raw) => self.for_istiod.push_back(raw),
                Output::Asked(ask) => self.learns(ask.service),
                Output::Nack(..) => {}
            }
        }
    }

    fn learns(&mut self, service: ServicePort) {
        assert!(
            !FALLBACKS.contains(&&*service.cluster()),
            "{service} is what calls fall back to"
        );
        self.learned.insert(service);
    }

    /// The controller takes a step: what is learned by then is given.
    fn settles_more(&mut self, on: bool) {
        self.settles();
        self.mesh.settled = match (self.mesh.settled, on) {
            (Settled::No, true) | (Settled::Wide | Settled::Yes, false) => Settled::Fallback,
            (Settled::Fallback, true) => Settled::Wide,
            (Settled::Wide | Settled::Yes, true) => Settled::Yes,
            (Settled::No | Settled::Fallback, false) => Settled::No,
        };
        self.grows();
    }

    /// What is learned is given, and the graph tells of it.
    fn grows(&mut self) {
        for slot in 0..SLOTS {
            let service = self.mesh.service_port(slot);
            self.mesh.given[usize::from(slot)] |= self.learned.contains(&service);
        }
        self.changes();
        let outputs = self.session.admit(self.learned.clone());
        self.takes(outputs);
    }

    fn proxy_hears(&mut self) -> bool {
        let Some(raw) = self.for_proxy.pop_front() else {
            return false;
        };
        let response = pb::DeltaDiscoveryResponse::decode(raw).unwrap();
        if matches!(&*response.type_url, ads::CDS | ads::EDS) {
            for resource in &response.resources {
                let any = resource.resource.as_ref().unwrap();
                let given = self.istiod.gave.contains(&any.value);
                let ours = Name::parse(&resource.name).is_some()
                    || stand_in(&resource.name).as_ref() == Some(any);
                assert!(given || ours, "{} is not istiod's", resource.name);
            }
        }
        self.envoy.hears(&response);
        self.ends();
        true
    }

    fn proxy_is_heard(&mut self) -> bool {
        self.envoy.speaks();
        let Some(raw) = self.envoy.out.pop_front() else {
            return false;
        };
        let outputs = self.session.on_request(&raw).unwrap();
        self.takes(outputs);
        true
    }

    fn istiod_hears(&mut self) -> bool {
        let Some(raw) = self.for_istiod.pop_front() else {
            return false;
        };
        self.istiod.hears(&raw);
        true
    }

    fn istiod_is_heard(&mut self) -> bool {
        let Some(raw) = self.istiod.out.pop_front() else {
            return false;
        };
        let outputs = self.session.on_response(&raw).unwrap();
        self.takes(outputs);
        true
    }

    fn flows(&mut self) {
        self.on_the_way = Duration::ZERO;
        for _ in 0..1000 {
            let one = self.proxy_is_heard() | self.istiod_hears() | self.istiod_is_heard();
            if !(self.proxy_hears() | one) {
                return;
            }
        }
        panic!("it never ends");
    }

    fn reconnects(&mut self, same: bool, knows: bool) {
        if !same {
            self.store = Store::default();
        }
        let known = if knows {
            self.learned.clone()
        } else {
            BTreeSet::new()
        };
        // What other streams found meanwhile is right in part.
        self.likely = likely_routes();
        self.session = session(&self.store, &self.likely, &known);
        self.istiod = Istiod::new(&self.mesh);
        self.for_proxy.clear();
        self.for_istiod.clear();
        self.reconnected = true;
        self.envoy.connects();
    }

    pub(super) fn takes_step(&mut self, step: &Step) {
        let times = |n: u8, world: &mut Self, what: fn(&mut Self) -> bool| {
            for _ in 0..n {
                what(world);
            }
        };
        match *step {
            Step::Becomes(slot, service) => {
                self.mesh.services[usize::from(slot)] = service;
                self.changes();
            }
            Step::ClusterChanges(slot) => {
                self.mesh.clusters[usize::from(slot)] += 1;
                self.changes();
            }
            Step::EndpointsChange(slot) => {
                self.mesh.endpoints[usize::from(slot)] += 1;
                self.changes();
            }
            Step::Push(all) => self.istiod.push(&self.mesh, all),
            Step::IstiodIsHeard(n) => times(n, self, Self::istiod_is_heard),
            Step::IstiodHears(n) => times(n, self, Self::istiod_hears),
            Step::ProxyHears(n) => times(n, self, Self::proxy_hears),
            Step::ProxyIsHeard(n) => times(n, self, Self::proxy_is_heard),
            Step::Settle => self.settles(),
            Step::Request(slot, form) => self.calls(request(slot, form)),
            Step::Connect(slot, port) => self.calls(call(slot, port, None)),
            Step::Admit(slot) => {
                let service = self.mesh.service_port(slot);
                let outputs = self.session.admit([service]);
                self.takes(outputs);
            }
            Step::Settles(on) => self.settles_more(on),
            Step::Grows => self.grows(),
            Step::Tidy(seconds) => self.tidies(seconds),
            Step::Refuse(type_url) => self.envoy.refuses = Some(type_url),
            Step::Reconnect { same, knows } => self.reconnects(same, knows),
            Step::Restart => {
                self.envoy = Envoy::default();
                self.reconnects(true, true);
            }
        }
    }

    fn calls(&mut self, call: Call) {
        self.envoy.calls(call);
        self.ends();
    }

    /// Nothing is longer on its way than a call may be held.
    fn tidies(&mut self, seconds: u8) {
        self.on_the_way += Duration::from_secs(seconds.into());
        if self.on_the_way >= HOLDS {
            self.istiod.push(&self.mesh, false);
            self.flows();
        }
        self.now += Duration::from_secs(seconds.into());
        let outputs = self.session.tidy(self.now);
        self.takes(outputs);
    }

    /// What ended did so where the mesh led to at some time since all was settled.
    fn ends(&mut self) {
        for (call, end) in std::mem::take(&mut self.envoy.ended) {
            let mut led: Vec<_> = self.history.iter().map(|m| plain(m).leads(&call)).collect();
            led.dedup();
            let services = |m: &Mesh| m.services != self.mesh.services;
            let settles = self.history.iter().any(|m| m.settled != self.mesh.settled);
            // While config is on its way, without us a call may fail or leave the mesh as well. Not so while a
            // workload settles, but for what has to be sniffed: its routes are gone with its listener. Nor what the stream
            // before this one knew.
            let changes = (led.len() > 1 && (!settles || self.reconnected))
                || self.is_sniffed(&call)
                || self.history.iter().any(services);
            let nobodys = |one: &End| matches!(one, End::At(to, _) if to == SPECIAL);
            let amiss = matches!(&end, End::Failed(_)) || nobodys(&end);
            if let End::At(to, _) = &end
                && FALLBACKS.contains(&&**to)
                && self.mesh.exists(call.slot)
            {
                // It comes to the global proxy, which tells of it.
                self.learns(self.mesh.service_port(call.slot));
            }
            // By its cluster as that is now, also where nothing leads there any more.
            let there =
                |one: &End| matches!((one, &end), (End::At(one, _), End::At(to, _)) if one == to);
            // What falls back by its listener, or goes to no service by it, may fall back by its address while the listener
            // is not there yet.
            let falls_back =
                |one: &End| matches!(one, End::At(to, _) if FALLBACKS.contains(&&**to));
            let by_address = |one: &End| falls_back(one) || nobodys(one);
            let either = falls_back(&end) && led.iter().any(by_address);
            let earlier = settles && (led.iter().any(there) || either);
            assert!(
                led.contains(&end) || earlier || changes && amiss,
                "{call:?} ended at {end:?}, not at {led:?}"
            );
        }
    }

    fn is_sniffed(&self, call: &Call) -> bool {
        let mut all = self.history.iter();
        self.mesh.settled != Settled::No && all.any(|mesh| mesh.sniffs(call.slot))
    }

    /// Everything that is on its way arrives, and then all is well.
    fn settles(&mut self) {
        self.istiod.push(&self.mesh, false);
        self.flows();
        assert_eq!(self.envoy.held, [], "they wait for ever");
        self.tidies(1);
        self.flows();
        self.history = vec![self.mesh.clone()];
        self.reconnected = false;
        assert!(
            self.istiod.open.is_empty(),
            "not acknowledged: {:?}",
            self.istiod.open
        );
        assert!(!self.envoy.warms(), "a cluster warms");
        self.is_up_to_date();
        self.mirrors_are_there();
        for call in all_calls() {
            self.leads_right(&call);
        }
    }

    /// A call leads to the right place, or would ask for what was not asked for yet.
    fn leads_right(&self, call: &Call) {
        match self.envoy.leads(call) {
            End::Held(name) => assert!(
                !self.envoy.asked.contains(&name),
                "{call:?} is stranded at {name}"
            ),
            end => assert_eq!(end, plain(&self.mesh).leads(call), "{call:?}"),
        }
    }

    /// Nothing is older than istiod has it.
    fn is_up_to_date(&self) {
        let clusters = self.mesh.of_type(ads::CDS);
        for (name, cluster) in &self.envoy.clusters {
            if Name::parse(name).is_some() {
                continue;
            }
            let wanted = clusters
                .get(name)
                .and_then(|r| r.resource.clone())
                .or_else(|| {
                    assert!(
                        self.envoy.asked.contains(name),
                        "{name} is a cluster no more"
                    );
                    stand_in(name)
                });
            assert_eq!(cluster.active, wanted, "{name}");
        }
        let endpoints = self.mesh.of_type(ads::EDS);
        let active = self
            .envoy
            .clusters
            .values()
            .filter_map(|c| c.active.as_ref());
        for name in active.filter_map(eds_of) {
            let wanted = endpoints.get(&name).and_then(|r| r.resource.clone());
            let has = self.envoy.endpoints.get(&name).cloned();
            assert_eq!(has, wanted.map(|any| any.value), "endpoints of {name}");
        }
        let listeners = self.mesh.of_type(ads::LDS);
        for (name, listener) in &self.envoy.listeners {
            let inside = name.starts_with("lazyin|");
            assert!(
                inside || listeners.contains_key(name),
                "{name} is a listener no more"
            );
            assert!(listener.warming.is_none(), "{name} warms");
        }
    }

    /// What is mirrored to is there: Envoy does not ask for it.
    fn mirrors_are_there(&self) {
        let clusters = self.mesh.of_type(ads::CDS);
        let configs = self.envoy.routes.values();
        let routes = configs
            .flat_map(|(c, _)| &c.virtual_hosts)
            .flat_map(|h| &h.routes);
        for route in routes {
            let Some(rds::route::Action::Route(action)) = &route.action else {
                continue;
            };
            for mirror in &action.request_mirror_policies {
                let name = &mirror.cluster;
                let there = self.envoy.clusters.contains_key(name);
                assert!(
                    there || !clusters.contains_key(name),
                    "{name} is mirrored to"
                );
            }
        }
    }

    /// Every call there is, once more; then the copies go, and it holds again.
    pub(super) fn comes_to_an_end(&mut self) {
        self.settles();
        for _ in 0..2 {
            for call in all_calls() {
                self.calls(call);
            }
            self.settles();
            self.tidies(30);
            self.tidies(30);
            self.settles();
            let copies = self
                .envoy
                .clusters
                .keys()
                .filter(|n| Name::parse(n).is_some());
            assert_eq!(
                copies.collect::<Vec<_>>(),
                Vec::<&String>::new(),
                "copies stay"
            );
        }
    }
}

fn all_calls() -> impl Iterator<Item = Call> {
    let requests = (0..=SLOTS).flat_map(|slot| (0..4).map(move |form| request(slot, form)));
    let connections = (0..=SLOTS).flat_map(|slot| [80, 3306].map(|port| call(slot, port, None)));
    requests.chain(connections)
}
