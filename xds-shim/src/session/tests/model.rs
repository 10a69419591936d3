//! The session between models of istiod and Envoy, messages being delivered in any order the streams
//! allow: whatever happens, calls end where istiod's whole config leads them, and none waits for ever.
//!
//! `PROPTEST_CASES=20000 cargo test --release -p xds-shim --lib model` tries more.

use super::*;
use crate::stand_in::Name;
use crate::stand_in::tcp::Destination;
use envoy::{Envoy, Slot, eds_of};
use find::{Call, End};
use mesh::{FALLBACKS, Istiod, Mesh, SLOTS, Service, Settled};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Instant;

mod envoy;
mod find;
pub(super) mod mesh;

#[derive(Debug, Clone)]
enum Step {
    Becomes(u8, Service),
    ClusterChanges(u8),
    EndpointsChange(u8),
    /// istiod pushes what changed, or everything.
    Push(bool),
    IstiodIsHeard(u8),
    IstiodHears(u8),
    ProxyHears(u8),
    ProxyIsHeard(u8),
    /// All that is on its way arrives.
    Settle,
    Request(u8, u8),
    Connect(u8, u16),
    /// Others of the workload use a service.
    Admit(u8),
    /// The workload settles, a step on or back; the controller waits before each until all have the one before.
    Settles(bool),
    /// Its Sidecar grows with what was learned.
    Grows,
    Tidy(u8),
    /// The proxy refuses the next response of a type.
    Refuse(&'static str),
    /// The stream ends, and there is another: at the same shim or not, which knows what was learned or not.
    Reconnect {
        same: bool,
        knows: bool,
    },
    /// The proxy begins anew.
    Restart,
}

fn service() -> impl Strategy<Value = Service> {
    use Service::*;
    prop::sample::select(vec![
        Absent, Absent, Http, Http, Mirrored, Subset, Tcp, Tcp, Auto, AutoOn80,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    prop_oneof![
        3 => (slot(), service()).prop_map(|(s, k)| Step::Becomes(s, k)),
        1 => slot().prop_map(Step::ClusterChanges),
        1 => slot().prop_map(Step::EndpointsChange),
        3 => any::<bool>().prop_map(Step::Push),
        3 => (1..4_u8).prop_map(Step::IstiodIsHeard),
        3 => (1..4_u8).prop_map(Step::IstiodHears),
        3 => (1..4_u8).prop_map(Step::ProxyHears),
        3 => (1..4_u8).prop_map(Step::ProxyIsHeard),
        3 => Just(Step::Settle),
        4 => (0..=SLOTS, 0..4_u8).prop_map(|(s, f)| Step::Request(s, f)),
        3 => (0..=SLOTS, prop::sample::select(vec![80, 3306])).prop_map(|(s, p)| Step::Connect(s, p)),
        1 => slot().prop_map(Step::Admit),
        2 => prop::sample::select(vec![true, true, false]).prop_map(Step::Settles),
        1 => Just(Step::Grows),
        1 => (0..40_u8).prop_map(Step::Tidy),
        1 => prop::sample::select(vec![ads::CDS, ads::EDS, ads::LDS]).prop_map(Step::Refuse),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(same, knows)| Step::Reconnect { same, knows }),
        1 => Just(Step::Restart),
    ]
}

struct World {
    mesh: Mesh,
    /// What the mesh was since all was settled last.
    history: Vec<Mesh>,
    istiod: Istiod,
    session: Session,
    store: Store,
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

fn session(store: &Store, known: &BTreeSet<ServicePort>) -> Session {
    let config = OnDemandConfig::new(HOLDS);
    Session::new(store.clone(), config, known.iter().cloned())
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
    fn new(services: [Service; SLOTS as usize]) -> Self {
        let mesh = Mesh {
            services,
            settled: Settled::No,
            given: Default::default(),
            clusters: Default::default(),
            endpoints: Default::default(),
        };
        let store = Store::default();
        let mut world = Self {
            history: vec![mesh.clone()],
            istiod: Istiod::new(&mesh),
            mesh,
            session: session(&store, &BTreeSet::new()),
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
        self.session = session(&self.store, &known);
        self.istiod = Istiod::new(&self.mesh);
        self.for_proxy.clear();
        self.for_istiod.clear();
        self.reconnected = true;
        self.envoy.connects();
    }

    fn takes_step(&mut self, step: &Step) {
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
    fn comes_to_an_end(&mut self) {
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

fn run(services: [Service; SLOTS as usize], steps: &[Step]) {
    let mut world = World::new(services);
    for step in steps {
        world.takes_step(step);
    }
    world.comes_to_an_end();
}

/// Routes that came before the copy of the listener that uses them were lost: the first request failed.
#[test]
fn routes_are_given_behind_the_copy_that_uses_them() {
    use Service::{Absent, Auto};
    run([Absent, Absent, Absent, Auto], &[]);
}

/// A proxy in which a copy warms says late what it asked for: a copy led to for good was never renewed.
#[test]
fn a_name_that_is_told_late_has_its_place_all_the_same() {
    use Service::{Absent, Http};
    let steps = [
        Step::Becomes(1, Http),
        Step::Settle,
        Step::Request(1, 0),
        Step::Admit(1),
        Step::ClusterChanges(1),
        Step::ProxyHears(1),
        Step::ProxyIsHeard(1),
        Step::ProxyHears(2),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Absent, Absent, Http], &steps);
}

/// A request whose route configuration went with its last listener, told late, was never answered.
#[test]
fn a_request_by_a_listener_that_is_gone_does_not_wait() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Request(0, 0),
        Step::Becomes(0, Tcp),
        Step::Request(1, 0),
        Step::ProxyIsHeard(1),
        Step::ProxyHears(1),
        Step::Becomes(1, Absent),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Http, Http, Tcp, Tcp], &steps);
}

/// A listener that went before its copy was made left its service due for ever, and others behind it.
#[test]
fn what_is_due_does_not_wait_for_what_nobody_asked_for() {
    use Service::{Absent, AutoOn80, Http, Mirrored, Subset};
    let steps = [
        Step::Settle,
        Step::Becomes(2, Subset),
        Step::Becomes(1, Mirrored),
        Step::Request(1, 0),
        Step::Request(0, 0),
    ];
    run([Http, AutoOn80, Http, Absent], &steps);
}

/// What answered a request whose routes are gone stayed for good in a proxy that never asked for routes again.
#[test]
fn what_answered_for_routes_that_are_gone_goes_too() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Becomes(1, Tcp),
        Step::Becomes(2, Absent),
        Step::Request(0, 0),
        Step::Push(false),
        Step::Tidy(5),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Http, Http, Absent], &steps);
}

/// The routes by which a request was held were given up before anybody knew them.
#[test]
fn a_request_whose_routes_are_gone_is_answered() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Becomes(0, Tcp),
        Step::Reconnect {
            same: false,
            knows: false,
        },
        Step::Becomes(3, Tcp),
        Step::Request(0, 0),
        Step::ProxyIsHeard(1),
        Step::ProxyIsHeard(3),
        Step::Connect(0, 80),
    ];
    run([Http, Absent, Absent, Http], &steps);
}

/// The listener of the port was not there yet, and the range of the fallback was.
#[test]
fn what_is_nobodys_may_fall_back_while_listeners_come() {
    use Service::{Absent, Tcp};
    let steps = [
        Step::Settles(true),
        Step::Push(false),
        Step::Becomes(0, Absent),
        Step::IstiodIsHeard(1),
        Step::ProxyHears(2),
        Step::Connect(0, 80),
        Step::Becomes(0, Absent),
    ];
    run([Tcp, Absent, Tcp, Tcp], &steps);
}

/// A proxy in which a cluster warmed told of its routes before its clusters: what it had already was held in them.
#[test]
fn what_a_proxy_has_is_not_held_though_it_says_so_late() {
    use Service::{Absent, Http, Mirrored};
    let steps = [
        Step::Settles(true),
        Step::Becomes(0, Absent),
        Step::Settles(true),
        Step::Becomes(0, Http),
        Step::Tidy(5),
        Step::Request(3, 0),
        Step::Settles(false),
        Step::ProxyHears(1),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Mirrored, Absent, Http], &steps);
}

/// A failure is made small within a minute.
fn config() -> ProptestConfig {
    ProptestConfig {
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn calls_end_where_istiod_leads_them(
        services in prop::array::uniform4(service()),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        run(services, &steps);
    }
}
