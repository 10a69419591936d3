mod settled;

use dependency_graph::{Dependency, Learned, Protocol, Source, Timestamp};
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::given::Standing;
use crate::limits::Limits;
use crate::mesh::fixture::name;
use crate::plan::plan_namespace;
use crate::plan::tests::{settings, shop, workload};
use crate::settle::Settling;

const CART: &str = "shop/lazymesh-deployment-cart";
const STEP: Duration = Duration::from_millis(130);

/// An agenda, the mesh it is about, and time that passes when the test says so.
struct Bench {
    agenda: Agenda,
    world: World,
    state: State,
    given: Given,
    start: Instant,
    passed: Duration,
    revision: u64,
}

impl Bench {
    fn new() -> Self {
        let given = Given::default();
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let choices = Choices {
            settings: settings(),
            pace: Pace::default(),
            only: BTreeSet::new(),
        };
        let mut bench = Self {
            agenda: Agenda::new(choices, given.clone(), metrics),
            world: shop(),
            state: State::new(crate::metrics::Metrics::new(&Registry::new()).unwrap()),
            given,
            start: Instant::now(),
            passed: Duration::ZERO,
            revision: 0,
        };
        bench.news(&News {
            everything: true,
            ..News::default()
        });
        bench
    }

    /// One that leads, in a mesh where all is written.
    fn settled() -> Self {
        let mut bench = Self::new();
        bench.agenda.lead(true, bench.now().tick);
        bench.settle();
        assert_eq!(bench.world.ours(), (2, 1));
        bench
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_seconds(1000 + self.passed.as_secs()),
            tick: self.start + self.passed,
        }
    }

    fn news(&mut self, news: &News) {
        let now = self.now().tick;
        self.agenda.news(&self.world, news, now);
    }

    fn touch(&mut self) {
        self.touch_namespace("shop");
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.news(&News {
            namespaces: BTreeSet::from([namespace.to_owned()]),
            ..News::default()
        });
    }

    /// The planner and the watches do their part; what is to be written comes back.
    fn turn(&mut self) -> Vec<(Key, Job)> {
        let now = self.now();
        let due = self.agenda.plans_due(now.tick);
        if !due.is_empty() {
            let graph = self.state.told_graph(now.wall);
            let settings = self.agenda.settings().clone();
            let settling = Settling {
                wishes: self.state.wishes(),
                now: now.wall,
            };
            let plan = |namespace: String| {
                let desired = plan_namespace(&self.world, &graph, &namespace, &settings, &settling);
                (namespace, desired)
            };
            let plans = due.into_iter().map(plan).collect();
            self.agenda
                .planned(&self.world, &self.state, plans, Duration::ZERO, now);
        }
        self.agenda.look(&self.world, &self.state, now);
        std::iter::from_fn(|| self.agenda.queue.pop()).collect()
    }

    fn write(&mut self, key: &Key, job: Job) {
        if let (Key::Object(kind, name), Job::Apply { object, made }) = (key, &job) {
            self.revision += 1;
            let mut object = object.clone();
            let uid = made
                .as_ref()
                .map_or(self.revision.to_string(), |made| made.uid.clone());
            object["metadata"]["uid"] = json!(uid);
            let seconds = made
                .as_ref()
                .map_or(self.now().wall, |made| made.created)
                .seconds();
            let (minutes, seconds) = (seconds / 60, seconds % 60);
            object["metadata"]["creationTimestamp"] =
                json!(format!("1970-01-01T00:{minutes:02}:{seconds:02}Z"));
            self.world.put(*kind, &name.to_string(), object);
            if *kind == Kind::EnvoyFilter && made.is_none() {
                self.touch_namespace(&name.namespace);
            }
        }
        if let (Key::Object(kind, name), Job::Delete { .. }) = (key, &job) {
            self.world.delete(*kind, name);
        }
        self.done(key, job, Ok(()));
    }

    fn done(&mut self, key: &Key, job: Job, result: Result<(), Fault>) {
        let now = self.now();
        self.agenda.done(&self.world, key, job, result, now);
    }

    /// Writes what is to be written until nothing is for half a minute; says what it was.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        let until = self.passed + Duration::from_secs(30);
        while self.passed < until {
            loop {
                let jobs = self.turn();
                let wakes = self.agenda.wakes_at();
                let more = wakes.is_some_and(|at| at <= self.now().tick);
                if jobs.is_empty() && !more {
                    break;
                }
                for (key, job) in jobs {
                    all.push(key.to_string());
                    self.write(&key, job);
                }
            }
            let next = self.agenda.wakes_at().map(|at| at - self.start);
            let next = next.filter(|next| *next > self.passed);
            self.passed = next.map_or(until, |next| next.min(until));
        }
        all
    }

    fn learn(&mut self, host: &str) {
        let mut calls = Learned::new();
        let dependency = Dependency {
            host: full(host).parse().unwrap(),
            port: 80_u32.try_into().unwrap(),
            protocol: Protocol::Http,
        };
        calls.see(&dependency, Timestamp::default(), Source::Fallback);
        let limit = Limits::default().dependencies;
        self.state.expect(&workload("cart"), &calls, limit);
        self.tell();
    }

    /// The record of `cart` has changed.
    fn tell(&mut self) {
        let record = self.state.view(&workload("cart"));
        let wish = self.state.wish(&workload("cart"));
        let known = (record.as_deref(), &wish);
        let now = self.now();
        self.agenda
            .learned(&self.world, &workload("cart"), known, now);
    }

    fn standing(&self, host: &str) -> Standing {
        self.given.standing(&workload("cart"), &full(host))
    }

    fn stage(&self) -> Stage {
        stage(&self.world, &name(CART)).unwrap()
    }
}

fn full(host: &str) -> String {
    format!("{host}.svc.cluster.local")
}

#[test]
fn whoever_does_not_lead_knows_and_writes_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.settle(), [""; 0]);
    assert!(
        matches!(bench.standing("pay.bank"), Standing::None(why) if why.contains("not written"))
    );
    bench.agenda.lead(true, bench.now().tick);
    let written = bench.settle();
    assert_eq!(written[0], "EnvoyFilter shop/lazymesh-fallback");
    assert_eq!(written.len(), 3);
    assert_eq!(bench.standing("pay.bank"), Standing::Lacking);
}

#[test]
fn namespaces_are_looked_at_one_in_a_turn_and_none_is_left_out() {
    let mut bench = Bench::settled();
    bench.world.lazy_namespace("fair");
    bench.world.put_pod("fair/cart-1", "cart");
    let everything = News {
        everything: true,
        ..News::default()
    };
    bench.news(&everything);
    let written = bench.settle();
    assert!(written.contains(&"Sidecar fair/lazymesh-deployment-cart".to_owned()));
    bench.news(&everything);
    bench.passed += WINDOW;
    assert!(bench.turn().is_empty());
    let due = |bench: &Bench| bench.agenda.look_due.keys().cloned().collect::<Vec<_>>();
    assert_eq!(due(&bench), ["shop"]);
    assert!(bench.turn().is_empty());
    assert_eq!(due(&bench), [""; 0]);
}

#[test]
fn a_learned_host_goes_out_without_a_plan_and_is_given_a_step_later() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let now = bench.now().tick;
    let (key, job) = bench.agenda.queue.pop().unwrap();
    bench.write(&key, job);
    assert!(
        bench
            .stage()
            .announced
            .contains(&format!("bank/{}", full("pay.bank")))
    );
    assert_eq!(bench.standing("pay.bank"), Standing::Lacking);
    assert_eq!(bench.agenda.wakes_at(), Some(now + STEP));
    bench.passed += STEP;
    let jobs = bench.turn();
    assert_eq!(jobs.len(), 1);
    for (key, job) in jobs {
        bench.write(&key, job);
    }
    assert!(matches!(bench.standing("pay.bank"), Standing::Given(_)));
    // The plan that follows comes to the same.
    assert_eq!(bench.settle(), [""; 0]);
}

#[test]
fn the_step_counts_from_when_it_was_written() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let (key, job) = bench.agenda.queue.pop().unwrap();
    // The API server takes its time.
    bench.passed += STEP * 3;
    assert_eq!(bench.turn(), []);
    bench.write(&key, job);
    assert_eq!(bench.turn(), []);
    bench.passed += STEP;
    assert_eq!(bench.turn().len(), 1);
}

#[test]
fn a_burst_is_one_write_of_each_step() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    bench.learn("rates.bank");
    bench.learn("cart.shop");
    let written = bench.settle();
    assert_eq!(
        written,
        [format!("Sidecar {CART}"), format!("Sidecar {CART}")]
    );
    assert!(matches!(bench.standing("rates.bank"), Standing::Given(_)));
}

#[test]
fn what_is_learned_during_a_plan_is_not_taken_back_by_it() {
    let mut bench = Bench::settled();
    bench.touch();
    bench.passed += WINDOW;
    let now = bench.now();
    assert_eq!(bench.agenda.plans_due(now.tick), ["shop"]);
    let graph = bench.state.told_graph(now.wall);
    let desired = plan_namespace(
        &bench.world,
        &graph,
        "shop",
        &settings(),
        &Settling::default(),
    );
    bench.learn("pay.bank");
    let plans = vec![("shop".to_owned(), desired)];
    bench
        .agenda
        .planned(&bench.world, &bench.state, plans, Duration::ZERO, now);
    let written = bench.settle();
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(matches!(bench.standing("pay.bank"), Standing::Given(_)));
}

#[test]
fn a_write_that_fails_is_tried_again_and_one_a_user_edited_is_not() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let (key, job) = bench.agenda.queue.pop().unwrap();
    bench.done(&key, job, Err(Fault::Unavailable("down".into())));
    assert_eq!(bench.settle().len(), 2);

    bench.learn("rates.bank");
    let (key, job) = bench.agenda.queue.pop().unwrap();
    bench.done(&key, job, Err(Fault::Edited("egress".into())));
    bench.passed += WINDOW;
    bench.touch();
    let written = bench.settle();
    // Only the record says so.
    assert!(
        written.iter().all(|what| what.starts_with("conditions of")),
        "{written:?}"
    );
    assert!(!written.is_empty());
}

#[test]
fn what_may_not_be_written_is_said_in_the_record() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let mut said = None;
    let until = bench.passed + Duration::from_secs(60);
    while said.is_none() && bench.passed < until {
        for (key, job) in bench.turn() {
            match &job {
                Job::Say { said: what, .. } => said = what.iter().next().cloned(),
                _ => {
                    let forbidden = Err(Fault::Unavailable("forbidden".into()));
                    bench.done(&key, job, forbidden);
                }
            }
        }
        bench.passed += WINDOW;
    }
    let said = said.unwrap();
    let expected = ("SidecarWritten".to_owned(), "Failed".to_owned());
    assert_eq!((said.kind.to_string(), said.reason.to_string()), expected);
}

#[test]
fn fields_beside_ours_are_left_and_not_written_over_and_over() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let (key, job) = bench.agenda.queue.pop().unwrap();
    let Job::Apply { object, made } = job.clone() else {
        panic!("{job:?}");
    };
    let mut theirs = object;
    theirs["spec"]["outboundTrafficPolicy"] = json!({"mode": "REGISTRY_ONLY"});
    theirs["metadata"]["uid"] = json!(made.unwrap().uid);
    bench.world.put(Kind::Sidecar, CART, theirs);
    bench.done(&key, job, Ok(()));
    bench.passed += STEP;
    // The next step is another write.
    let objects = |jobs: &[(Key, Job)]| {
        let objects = jobs
            .iter()
            .filter(|(key, _)| matches!(key, Key::Object(..)));
        objects.count()
    };
    assert_eq!(objects(&bench.turn()), 1);
    bench.touch();
    bench.passed += WINDOW;
    assert_eq!(objects(&bench.turn()), 0);
}

#[test]
fn who_stops_leading_writes_nothing_more_and_the_next_one_goes_on() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    bench.agenda.lead(false, bench.now().tick);
    assert_eq!(bench.settle(), [""; 0]);
    bench.agenda.lead(true, bench.now().tick);
    assert_eq!(bench.settle().len(), 2);
    assert!(matches!(bench.standing("pay.bank"), Standing::Given(_)));
}

#[test]
fn who_leads_again_knows_nothing_of_what_others_wrote_meanwhile() {
    let mut bench = Bench::settled();
    bench.learn("pay.bank");
    let (key, job) = bench.agenda.queue.pop().unwrap();
    bench.write(&key, job);
    bench.agenda.lead(false, bench.now().tick);
    // Another leader gave it, took it, and has announced it this moment.
    bench.passed += STEP * 4;
    bench.agenda.lead(true, bench.now().tick);
    assert_eq!(bench.turn(), []);
    bench.passed += STEP;
    assert_eq!(bench.turn().len(), 1);
}

#[test]
fn opting_out_takes_everything_back_and_forgets() {
    let mut bench = Bench::settled();
    let off = json!({"metadata": {"labels": {"lazymesh.dev/mode": "off"}}});
    bench.world.put(Kind::Namespace, "shop", off);
    bench.touch();
    let written = bench.settle();
    assert_eq!(written.len(), 3, "{written:?}");
    assert_eq!(written[2], "EnvoyFilter shop/lazymesh-fallback");
    assert_eq!(bench.world.ours(), (0, 0));
    bench.touch();
    bench.settle();
    assert!(bench.agenda.places.is_empty());
    assert!(matches!(bench.standing("pay.bank"), Standing::None(_)));
}

#[test]
fn a_user_s_sidecar_is_said_in_the_record() {
    let mut bench = Bench::settled();
    let theirs = json!({"spec": {"workloadSelector": {"labels": {"app": "cart"}}}});
    bench.world.put(Kind::Sidecar, "shop/theirs", theirs);
    bench.touch();
    let written = bench.settle();
    assert!(written.contains(&format!("Sidecar {CART}")));
    assert!(
        written.iter().any(|what| what.starts_with("conditions of")),
        "{written:?}"
    );
    assert!(
        matches!(bench.standing("pay.bank"), Standing::None(why) if why.contains("shop/theirs"))
    );
}

#[test]
fn other_namespaces_than_those_chosen_are_left_alone() {
    let mut bench = Bench::new();
    bench.agenda.choices.only = BTreeSet::from(["bank".to_owned()]);
    bench.agenda.plans.clear();
    bench.agenda.lead(true, bench.now().tick);
    bench.news(&News {
        everything: true,
        ..News::default()
    });
    assert_eq!(bench.settle(), [""; 0]);
}

#[test]
fn what_other_modes_learn_is_no_reason_to_plan() {
    let mut bench = Bench::new();
    let on_demand = json!({"metadata": {"labels": {"lazymesh.dev/mode": "on-demand"}}});
    bench.world.put(Kind::Namespace, "shop", on_demand);
    bench.settle();
    bench.learn("pay.bank");
    assert_eq!(bench.agenda.wakes_at(), None);
}
