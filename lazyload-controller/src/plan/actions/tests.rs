mod wide;

use dependency_graph::Graph;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mesh::fixture::{name, pod_of};
use crate::plan::plan_namespace;
use crate::plan::tests::{learned, settings, shop};
use crate::settle::Settling;

/// A moment as Kubernetes writes it.
fn written(at: Timestamp) -> String {
    let seconds = at.seconds();
    let (minutes, hours) = (seconds / 60 % 60, seconds / 3600);
    format!("1970-01-01T{hours:02}:{minutes:02}:{:02}Z", seconds % 60)
}

/// A cluster of one namespace and the controller's leader.
struct Cluster {
    world: World,
    graph: Graph,
    memory: Memory,
    now: Timestamp,
    tick: Instant,
    made: usize,
    settling: Settling,
}

impl Cluster {
    fn new() -> Self {
        Self {
            world: shop(),
            graph: learned("cart", &["pay.bank"]),
            memory: Memory::default(),
            now: Timestamp::from_seconds(1000),
            tick: Instant::now(),
            made: 0,
            settling: Settling::default(),
        }
    }

    fn todo(&mut self) -> Todo {
        let desired = plan_namespace(
            &self.world,
            &self.graph,
            "shop",
            &settings(),
            &self.settling,
        );
        let now = Now {
            wall: self.now,
            tick: self.tick,
        };
        let (memory, pace) = (&mut self.memory, Pace::default());
        todo(&self.world, "shop", &desired, memory, &pace, now)
    }

    /// Does what is to be done, as the cluster would, and says it shortly.
    fn step(&mut self) -> Vec<String> {
        let todo = self.todo();
        let said = todo.actions.iter().map(|action| match action {
            Action::Apply(kind, name, _) => format!("apply {kind} {}", name.name),
            Action::Delete(kind, name, _) => format!("delete {kind} {}", name.name),
        });
        let said = said.collect();
        for action in todo.actions {
            match action {
                Action::Apply(kind, name, object) => self.apply(kind, &name, object),
                Action::Delete(kind, name, uid) => {
                    let known = match kind {
                        Kind::Sidecar => self
                            .world
                            .sidecars("shop")
                            .find(|(at, _)| **at == name)
                            .and_then(|(_, s)| s.ours.clone()),
                        _ => self
                            .world
                            .filters("shop")
                            .find(|(at, _)| **at == name)
                            .and_then(|(_, f)| f.ours.clone()),
                    };
                    assert_eq!(known.unwrap().uid, uid);
                    self.world.delete(kind, &name);
                }
            }
        }
        said
    }

    fn apply(&mut self, kind: Kind, name: &Name, mut object: Value) {
        let before = match kind {
            Kind::Sidecar => self
                .world
                .sidecars("shop")
                .find(|(at, _)| *at == name)
                .and_then(|(_, s)| s.ours.clone()),
            _ => self
                .world
                .filters("shop")
                .find(|(at, _)| *at == name)
                .and_then(|(_, f)| f.ours.clone()),
        };
        if let (Kind::Sidecar, Some(made)) = (kind, &before) {
            // No host is given that was not announced, and none is let go that was given.
            let (was, is) = (Stage::of(&made.spec), Stage::of(&object["spec"]));
            assert!(
                is.given
                    .difference(&was.given)
                    .all(|host| was.announced.contains(host) || was.announced.contains(EVERYTHING))
            );
            assert!(
                was.given
                    .difference(&is.given)
                    .all(|host| is.announced.contains(host))
            );
        }
        self.made += 1;
        let (uid, created) = before.map_or((self.made.to_string(), self.now), |made| {
            (made.uid, made.created)
        });
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["creationTimestamp"] = json!(written(created));
        if kind == Kind::Sidecar {
            let stage = Stage::of(&object["spec"]);
            self.memory.wrote(name, stage, self.tick);
        }
        self.world.put(kind, &name.to_string(), object);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = Timestamp::from_seconds(self.now.seconds() + seconds);
        self.tick += Duration::from_secs(seconds);
    }

    fn settled() -> Self {
        let mut cluster = Self::new();
        cluster.step();
        cluster.pass(3);
        cluster.step();
        assert_eq!(cluster.step(), [""; 0]);
        cluster
    }

    fn opt(&mut self, mode: &str) {
        let body = json!({"metadata": {"labels": {"lazymesh.dev/mode": mode}}});
        self.world.put(Kind::Namespace, "shop", body);
    }
}

const FILTER: &str = "apply EnvoyFilter lazymesh-fallback";
const CART: &str = "apply Sidecar lazymesh-deployment-cart";
const WEB: &str = "apply Sidecar lazymesh-deployment-web";

#[test]
fn opting_in_makes_the_fallback_first_and_sidecars_when_it_has_settled() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.todo().again, None);
    assert_eq!(cluster.step(), [FILTER]);
    assert_eq!(cluster.step(), [""; 0]);
    assert_eq!(cluster.todo().again, Some(SETTLED));
    cluster.pass(2);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(1);
    assert_eq!(cluster.step(), [CART, WEB]);
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn nothing_is_done_where_nothing_changed_also_after_a_restart() {
    let mut cluster = Cluster::settled();
    cluster.memory = Memory::default();
    cluster.pass(100);
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn growth_goes_before_all_else() {
    let mut cluster = Cluster::settled();
    // A new namespace changes the cover, and a new pod without a Sidecar of its own yet is to have one.
    cluster.world.put(Kind::Namespace, "new", json!({}));
    cluster.world.put_pod("shop/api-1", "api");
    cluster.graph = learned("web", &["rates.bank"]);
    assert_eq!(
        cluster.step(),
        [WEB, FILTER, CART, "apply Sidecar lazymesh-deployment-api"]
    );
}

#[test]
fn what_is_new_is_announced_first_and_what_goes_last() {
    let mut cluster = Cluster::settled();
    let at = name("shop/lazymesh-deployment-cart");
    let stage = |cluster: &Cluster| {
        let (_, sidecar) = cluster
            .world
            .sidecars("shop")
            .find(|(of, _)| **of == at)
            .unwrap();
        let stage = Stage::of(&sidecar.ours.as_ref().unwrap().spec);
        let has = |hosts: &BTreeSet<String>| {
            ["pay", "rates"]
                .map(|host| hosts.contains(&format!("bank/{host}.bank.svc.cluster.local")))
        };
        (has(&stage.given), has(&stage.announced))
    };
    assert_eq!(stage(&cluster), ([true, false], [false, false]));
    cluster.graph = learned("cart", &["rates.bank"]);
    assert_eq!(cluster.step(), [CART]);
    assert_eq!(stage(&cluster), ([true, false], [false, true]));
    assert_eq!(
        cluster.todo(),
        Todo {
            actions: vec![],
            again: Some(STEP)
        }
    );
    cluster.tick += STEP;
    assert_eq!(cluster.step(), [CART]);
    assert_eq!(stage(&cluster), ([false, true], [true, false]));
    cluster.tick += STEP / 2;
    assert_eq!(cluster.step(), [""; 0]);
    // After a restart the time counts anew.
    cluster.memory = Memory::default();
    assert_eq!(cluster.todo().again, Some(STEP));
    cluster.tick += STEP;
    assert_eq!(cluster.step(), [CART]);
    assert_eq!(stage(&cluster), ([false, true], [false, false]));
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn what_is_learned_meanwhile_is_announced_by_the_write_that_gives() {
    let mut cluster = Cluster::settled();
    cluster.graph = learned("cart", &["pay.bank", "rates.bank"]);
    assert_eq!(cluster.step(), [CART]);
    cluster.tick += STEP / 2;
    cluster.graph = learned("cart", &["pay.bank", "rates.bank", "cart.shop"]);
    assert_eq!(
        cluster.todo(),
        Todo {
            actions: vec![],
            again: Some(STEP / 2)
        }
    );
    cluster.tick += STEP / 2;
    assert_eq!(cluster.step(), [CART]);
    cluster.tick += STEP;
    assert_eq!(cluster.step(), [CART]);
    assert_eq!(cluster.todo(), Todo::default());
}

fn hosts(names: &str) -> BTreeSet<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

fn at(given: &str, announced: &str) -> Stage {
    Stage {
        given: hosts(given),
        announced: hosts(announced),
    }
}

#[test]
fn the_stage_that_comes_next() {
    // What is there, what is wanted, whether the former has settled, what comes.
    let table = [
        (at("a", ""), "a b", true, at("a", "b")),
        (at("a", "b"), "a b", false, at("a", "b")),
        (at("a", "b"), "a b", true, at("a b", "")),
        // One write gives and announces.
        (at("a", "b"), "a b c", false, at("a", "b")),
        (at("a", "b"), "a b c", true, at("a b", "c")),
        // What goes goes last: it stays while something is still to be announced.
        (at("a", ""), "b", true, at("a", "b")),
        (at("a", "b"), "b c", true, at("a b", "c")),
        (at("a b", "c"), "b c", true, at("b c", "a")),
        (at("b c", "a"), "b c", false, at("b c", "a")),
        (at("b c", "a"), "b c", true, at("b c", "")),
        // Nobody waits for what was taken, so it puts off nothing.
        (at("b", "a"), "b c", false, at("b", "a c")),
        (at("b", "a"), "b c", true, at("b", "c")),
        (at("b", "a"), "a b", false, at("b", "a")),
        (at("b", "a"), "a b", true, at("a b", "")),
        (at("a b", ""), "a b", true, at("a b", "")),
        // It is not wanted any more before it was given.
        (at("a", "b"), "a", false, at("a", "b")),
        (at("a", "b"), "a", true, at("a", "")),
    ];
    for (is, wanted, settled, expected) in table {
        let last = at(wanted, "");
        let found = next_of_step(&is, &last, settled);
        assert_eq!(found, expected, "from {is:?} to {wanted}, {settled}");
    }
}

/// Calls to something new at a steady pace, and how long each write takes to land.
#[test]
fn a_burst_starves_nothing() {
    for (between, write) in [(100, 1), (100, 20), (10, 5), (129, 1), (131, 40), (2, 60)] {
        let pace = Pace::default();
        let name = name("shop/lazymesh-deployment-cart");
        let (mut memory, start) = (Memory::default(), Instant::now());
        let (mut is, mut landing) = (at("", ""), None::<(u64, Stage)>);
        let mut announced: BTreeMap<String, u64> = BTreeMap::new();
        let (mut last, mut last_announcement) = (Stage::default(), None::<u64>);
        for millis in 0..3000_u64 {
            let now = start + Duration::from_millis(millis);
            if let Some((_, stage)) = landing.take_if(|(lands, _)| *lands <= millis) {
                for host in stage.given.difference(&is.given) {
                    let waited = millis - announced[host];
                    assert!((130..=130 + write).contains(&waited), "{host}: {waited} ms");
                }
                for host in stage.announced.difference(&is.announced) {
                    announced.insert(host.clone(), millis);
                }
                // istiod has the time to push every announcement by itself.
                let after =
                    last_announcement.map_or(pace.step, |at| Duration::from_millis(millis - at));
                assert!(after >= pace.step, "{after:?}");
                last_announcement = (!stage.announced.is_empty()).then_some(millis);
                memory.wrote(&name, stage.clone(), now);
                is = stage;
            }
            if millis % between == 0 {
                last.given.insert(format!("h{millis:04}"));
            }
            let settled =
                is.announced.is_empty() || memory.announced_for(&name, &is, now) >= pace.step;
            let stage = next_of_step(&is, &last, settled);
            if stage != is && landing.is_none() {
                landing = Some((millis + write, stage));
            }
        }
        // All but the last of them are given: nothing waits for the burst to end.
        let longest = 2 * (130 + write) + between;
        let due = (3000 - longest) / between;
        assert!(is.given.len() as u64 >= due, "{} of {due}", is.given.len());
    }
}

#[test]
fn a_write_that_nobody_saw_end_counts_from_when_it_is_seen() {
    let mut cluster = Cluster::settled();
    cluster.graph = learned("cart", &["pay.bank", "rates.bank"]);
    cluster.step();
    cluster.tick += STEP;
    // Gives rates and announces cart, and the answer is lost.
    cluster.graph = learned("cart", &["pay.bank", "rates.bank", "cart.shop"]);
    let before = cluster.memory.clone();
    assert_eq!(cluster.step(), [CART]);
    cluster.memory = before;
    assert_eq!(
        cluster.todo(),
        Todo {
            actions: vec![],
            again: Some(STEP)
        }
    );
}

#[test]
fn opting_out_removes_sidecars_first_and_the_fallback_later() {
    let mut cluster = Cluster::settled();
    cluster.opt("off");
    assert_eq!(
        cluster.step(),
        [
            "delete Sidecar lazymesh-deployment-cart",
            "delete Sidecar lazymesh-deployment-web"
        ]
    );
    assert_eq!(cluster.todo().again, Some(LINGER));
    cluster.pass(9);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(1);
    assert_eq!(cluster.step(), ["delete EnvoyFilter lazymesh-fallback"]);
    assert_eq!(cluster.todo(), Todo::default());
    assert_eq!(cluster.memory, Memory::default());
}

#[test]
fn a_global_proxy_s_service_that_is_made_anew_costs_no_sidecar() {
    let mut cluster = Cluster::settled();
    let at = name("lazymesh-system/global-proxy");
    let without = |cluster: &mut Cluster| {
        cluster.world.delete(Kind::Service, &at);
    };
    without(&mut cluster);
    assert_eq!(cluster.step(), [""; 0]);
    assert_eq!(cluster.todo().again, Some(FORGIVEN));
    cluster.pass(29);
    assert_eq!(cluster.step(), [""; 0]);
    let ports = ["http:80", "tcp-tunnel:15009"];
    cluster.world.service(&at.to_string(), "10.96.0.3", &ports);
    assert_eq!(cluster.todo(), Todo::default());
    // The time counts anew.
    without(&mut cluster);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(29);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(1);
    assert_eq!(cluster.step().len(), 2);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(10);
    assert_eq!(cluster.step(), ["delete EnvoyFilter lazymesh-fallback"]);
    assert_eq!(cluster.todo(), Todo::default());
    assert_eq!(cluster.memory, Memory::default());
}

#[test]
fn opting_out_without_a_global_proxy_waits_for_nothing() {
    let mut cluster = Cluster::settled();
    let at = name("lazymesh-system/global-proxy");
    cluster.world.delete(Kind::Service, &at);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.opt("off");
    assert_eq!(cluster.step().len(), 2);
}

#[test]
fn a_restart_in_between_waits_anew_and_still_removes_all() {
    let mut cluster = Cluster::settled();
    cluster.opt("off");
    cluster.step();
    cluster.pass(9);
    cluster.memory = Memory::default();
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(10);
    assert_eq!(cluster.step(), ["delete EnvoyFilter lazymesh-fallback"]);
}

#[test]
fn while_a_sidecar_is_still_there_its_fallback_is_too() {
    let mut cluster = Cluster::settled();
    cluster.opt("off");
    // Deleting does not come about, however long it is tried.
    for _ in 0..3 {
        cluster.pass(60);
        let todo = cluster.todo();
        let only_sidecars = |action: &Action| matches!(action, Action::Delete(Kind::Sidecar, ..));
        assert!(todo.actions.len() == 2 && todo.actions.iter().all(only_sidecars));
    }
    cluster.step();
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(10);
    assert_eq!(cluster.step().len(), 1);
}

#[test]
fn what_was_there_before_anything_else_was_known_is_removed_too() {
    // Opted out while the controller was down: only the objects tell.
    let mut cluster = Cluster::settled();
    cluster
        .world
        .delete(Kind::Namespace, &Name::cluster("shop"));
    cluster.graph = Graph::new();
    cluster.memory = Memory::default();
    assert_eq!(cluster.step().len(), 2);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(10);
    assert_eq!(cluster.step().len(), 1);
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn opting_in_again_at_once_keeps_the_fallback() {
    let mut cluster = Cluster::settled();
    cluster.opt("off");
    cluster.step();
    cluster.pass(5);
    cluster.opt("sidecar");
    assert_eq!(cluster.step(), [CART, WEB]);
    // Unwanted again later, it counts from then.
    cluster.pass(20);
    cluster.opt("off");
    cluster.step();
    cluster.pass(9);
    assert_eq!(cluster.step(), [""; 0]);
}

#[test]
fn one_form_of_the_fallback_gives_way_to_the_other_when_that_has_settled() {
    let mut cluster = Cluster::settled();
    let mut off = pod_of("web");
    off["metadata"]["labels"]["lazymesh.dev/mode"] = json!("off");
    cluster.world.put(Kind::Pod, "shop/web-1", off);
    assert_eq!(
        cluster.step(),
        [
            "apply EnvoyFilter lazymesh-fallback-deployment-cart",
            "delete Sidecar lazymesh-deployment-web"
        ]
    );
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(9);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(1);
    assert_eq!(cluster.step(), ["delete EnvoyFilter lazymesh-fallback"]);
    // And back.
    cluster.world.put_pod("shop/web-1", "web");
    assert_eq!(cluster.step(), [FILTER]);
    cluster.pass(3);
    assert_eq!(cluster.step(), [WEB]);
    cluster.pass(7);
    assert_eq!(
        cluster.step(),
        ["delete EnvoyFilter lazymesh-fallback-deployment-cart"]
    );
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn a_user_s_sidecar_takes_ours_away() {
    let mut cluster = Cluster::settled();
    let theirs = json!({"spec": {"workloadSelector": {"labels": {"app": "cart"}}}});
    cluster.world.put(Kind::Sidecar, "shop/theirs", theirs);
    let did = cluster.step();
    assert!(
        did.contains(&"delete Sidecar lazymesh-deployment-cart".to_owned()),
        "{did:?}"
    );
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(10);
    assert_eq!(cluster.step(), ["delete EnvoyFilter lazymesh-fallback"]);
    assert_eq!(cluster.world.sidecars("shop").count(), 2);
}

#[test]
fn a_copy_of_ours_under_another_name_is_a_user_s() {
    let mut cluster = Cluster::settled();
    let label = json!({"app.kubernetes.io/managed-by": "lazymesh"});
    let copied = json!({"metadata": {"labels": label, "uid": "theirs"},
                        "spec": {"workloadSelector": {"labels": {"app": "nobody"}}}});
    cluster.world.put(Kind::Sidecar, "shop/copy", copied);
    let copied = json!({"metadata": {"labels": label, "uid": "theirs"}, "spec": {}});
    cluster.world.put(Kind::EnvoyFilter, "shop/copy", copied);
    assert_eq!(cluster.todo(), Todo::default());
    cluster.opt("off");
    for _ in 0..3 {
        cluster.step();
        cluster.pass(10);
    }
    let left = cluster.world.sidecars("shop").map(|(name, _)| name);
    assert_eq!(left.collect::<Vec<_>>(), [&name("shop/copy")]);
    let left = cluster.world.filters("shop").map(|(name, _)| name);
    assert_eq!(left.collect::<Vec<_>>(), [&name("shop/copy")]);
}

#[test]
fn an_object_edited_or_without_its_label_is_written_again() {
    let mut cluster = Cluster::settled();
    let edited = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "lazymesh"}, "uid": "1",
                                     "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"priority": 1}});
    cluster
        .world
        .put(Kind::EnvoyFilter, "shop/lazymesh-fallback", edited);
    assert_eq!(cluster.step(), [FILTER]);
    let at = name("shop/lazymesh-deployment-cart");
    let made = cluster
        .world
        .sidecars("shop")
        .find(|(of, _)| **of == at)
        .unwrap()
        .1
        .ours
        .clone()
        .unwrap();
    cluster.world.put(
        Kind::Sidecar,
        "shop/lazymesh-deployment-cart",
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "lazymesh"}, "uid": made.uid}, "spec": made.spec}),
    );
    assert_eq!(cluster.step(), [CART]);
    assert_eq!(cluster.todo(), Todo::default());
}

/// Things that may happen to the namespace.
#[derive(Clone, Debug)]
enum Happening {
    Opt(bool),
    Pod(bool),
    UserSidecar(bool),
    Learn(bool),
    Restart,
    Pass(u64),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<bool>().prop_map(Happening::Opt),
        any::<bool>().prop_map(Happening::Pod),
        any::<bool>().prop_map(Happening::UserSidecar),
        any::<bool>().prop_map(Happening::Learn),
        Just(Happening::Restart),
        (1_u64..12).prop_map(Happening::Pass),
    ]
}

proptest! {
    /// Whatever happens: a Sidecar of ours is never made where no fallback of ours has settled, no fallback goes while a
    /// Sidecar needs it, and in the end there is what is wanted and nothing else.
    #[test]
    fn a_sidecar_is_never_without_its_fallback(happenings in proptest::collection::vec(any_happening(), 0..30)) {
        let mut cluster = Cluster::new();
        for happening in happenings {
            match happening {
                Happening::Opt(on) => cluster.opt(if on { "sidecar" } else { "off" }),
                Happening::Pod(true) => { cluster.world.put_pod("shop/api-1", "api"); }
                Happening::Pod(false) => { cluster.world.delete(Kind::Pod, &name("shop/api-1")); }
                Happening::UserSidecar(true) => {
                    let theirs = json!({"spec": {"workloadSelector": {"labels": {"app": "cart"}}}});
                    cluster.world.put(Kind::Sidecar, "shop/theirs", theirs);
                }
                Happening::UserSidecar(false) => { cluster.world.delete(Kind::Sidecar, &name("shop/theirs")); }
                Happening::Learn(more) => cluster.graph = learned("cart", if more { &["pay.bank", "rates.bank"] } else { &["pay.bank"] }),
                Happening::Restart => cluster.memory = Memory::default(),
                Happening::Pass(seconds) => cluster.pass(seconds),
            }
            let before: Vec<Name> = cluster.world.sidecars("shop").map(|(name, _)| name.clone()).collect();
            cluster.step();
            let desired = plan_namespace(&cluster.world, &cluster.graph, "shop", &settings(), &Settling::default());
            for (at, sidecar) in cluster.world.sidecars("shop") {
                if sidecar.ours.is_none() { continue; }
                let filters: Vec<_> = cluster.world.filters("shop").filter_map(|(name, f)| Some((name, f.ours.as_ref()?))).collect();
                prop_assert!(!filters.is_empty(), "{} has no fallback", at);
                if !before.contains(at) {
                    let needs = &desired.sidecars[at].filter;
                    let made = filters.iter().find(|(name, _)| *name == needs);
                    prop_assert!(made.is_some_and(|(_, made)| cluster.now.since(made.created) >= SETTLED));
                }
            }
        }
        for _ in 0..6 {
            cluster.pass(20);
            cluster.step();
        }
        prop_assert_eq!(cluster.todo(), Todo::default());
        let desired = plan_namespace(&cluster.world, &cluster.graph, "shop", &settings(), &Settling::default());
        let ours: Vec<Name> = cluster.world.sidecars("shop").filter(|(_, s)| s.ours.is_some()).map(|(n, _)| n.clone()).collect();
        prop_assert_eq!(ours, desired.sidecars.keys().cloned().collect::<Vec<_>>());
        prop_assert_eq!(cluster.world.filters("shop").count(), desired.filters.len());
    }
}
