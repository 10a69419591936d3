//! What is made of calls and said of them, without a stream.

use std::collections::BTreeSet;

use dependency_graph::api::call_answer::State as Said;
use dependency_graph::api::{self, CallAnswer, FallbackPolicy};
use dependency_graph::{Learned, Mode, Record, Source, Timestamp, Workload};
use prometheus::Registry;
use serde_json::json;

use super::book::BATCH;
use super::*;
use crate::limits::Limits;
use crate::mesh::Kind;
use crate::mesh::fixture::{pod_of, world};
use crate::resource::Entry as Stored;
use crate::state::{State, Versioned};

const NOW: u64 = 100_000_000;
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const REVIEWS: &str = "reviews.shop.svc.cluster.local";

struct Bench {
    world: World,
    state: State,
    limits: Limits,
    given: Given,
    rates: Rates,
    book: Book,
    now: Instant,
    metrics: Metrics,
    /// The last answer.
    last: Option<CallAnswer>,
}

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

fn bench() -> Bench {
    let mut world = world();
    world.lazy_namespace("shop");
    world.service("shop/reviews", "10.96.1.1", &["http:80", "tcp:5432"]);
    world.service("bank/pay", "10.96.2.1", &["http:80"]);
    world.put_pod("shop/cart-1", "cart");
    world.put_pod("shop/web-1", "web");
    let registry = Registry::new();
    let state = State::new(crate::metrics::Metrics::new(&registry).unwrap());
    let metrics = Metrics::new(&registry).unwrap();
    let given = Given::default();
    given.gives(
        &workload("cart"),
        BTreeSet::new(),
        std::time::Instant::now(),
    );
    Bench {
        world,
        state,
        limits: Limits::default(),
        given,
        rates: Rates::default(),
        book: Book::new(metrics.clone()),
        now: Instant::now(),
        metrics,
        last: None,
    }
}

/// A call of `cart` to `reviews`.
fn call(id: u64) -> api::Call {
    api::Call {
        id,
        spiffe_id: CART.into(),
        pod: "cart-1".into(),
        authority: "reviews".into(),
        destination: "10.96.1.1:80".into(),
        protocol: api::Protocol::Http.into(),
        seen: None,
    }
}

impl Bench {
    fn court<T>(&mut self, work: impl FnOnce(&mut Book, &mut Court<'_>) -> T) -> T {
        let known = Known {
            world: &self.world,
            state: &self.state,
            limits: &self.limits,
            now: Timestamp::from_seconds(NOW),
        };
        let mut court = Court {
            known,
            given: &self.given,
            rates: &mut self.rates,
            now: self.now,
        };
        work(&mut self.book, &mut court)
    }

    fn take(&mut self, calls: Vec<api::Call>) -> Work {
        self.court(|book, court| book.take(calls, court))
    }

    fn retry(&mut self) -> Work {
        self.court(Book::retry)
    }

    /// The store takes what is to be stored.
    fn store(&mut self, work: Work) {
        for (workload, (learned, entries)) in work {
            let mut record = self
                .state
                .record(&workload)
                .map(|r| (*r).clone())
                .unwrap_or_default();
            let refused = record
                .learned
                .merge_up_to(&learned, self.limits.dependencies);
            self.set(&workload, record, refused > 0);
            self.book
                .stored(&entries, &self.state, &self.given, self.now);
        }
    }

    fn set(&self, workload: &Workload, record: Record, capped: bool) {
        let entry = Stored {
            workload: workload.clone(),
            record,
            capped,
            stale: false,
            keeping: crate::expiry::Keeping::default(),
            said: BTreeSet::default(),
            settle_after: None,
        };
        let revision = self.state.revision() + 1;
        self.state.set_record(Versioned { entry, revision });
    }

    fn give(&mut self, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.given
            .gives(&workload("cart"), hosts, self.now.into_std());
        self.book.look(&self.given, self.now);
    }

    fn said(&mut self) -> Vec<CallAnswer> {
        self.book
            .answers()
            .map(|said| said.answers)
            .unwrap_or_default()
    }

    fn states(&mut self) -> Vec<(u64, Said, bool)> {
        let said = self.said().into_iter();
        said.map(|answer| (answer.id, answer.state(), answer.done))
            .collect()
    }

    /// What is said of one call at once.
    fn answer(&mut self, edit: impl FnOnce(&mut api::Call)) -> (Said, String) {
        let mut edited = call(7);
        edit(&mut edited);
        self.take(vec![edited]);
        let said = self.said();
        assert!(said.len() < 2);
        self.last = said.first().cloned();
        said.first()
            .map_or((Said::Unspecified, String::new()), |answer| {
                (answer.state(), answer.reason.clone())
            })
    }

    fn counted(&self, outcome: Outcome) -> u64 {
        self.metrics.count(outcome)
    }
}

fn hosts(work: &Work) -> Vec<(String, Vec<String>, usize)> {
    let told = work.iter().map(|(workload, (learned, entries))| {
        let all = learned
            .dependencies()
            .map(|dependency| dependency.to_string());
        (workload.to_string(), all.collect(), entries.len())
    });
    told.collect()
}

#[test]
fn every_kind_of_call_gets_its_answer() {
    let mut bench = bench();
    let pending = (Said::Pending, String::new());
    assert_eq!(bench.answer(|_| {}), pending);
    assert_eq!(
        bench.answer(|call| call.pod.clear()),
        pending,
        "one workload has the account"
    );
    assert_eq!(
        bench.answer(|call| call.authority = "pay.bank".into()),
        pending
    );
    assert_eq!(
        bench.answer(|call| {
            call.authority.clear();
            call.destination = "10.96.1.1:5432".into();
            call.protocol = api::Protocol::Unspecified.into();
        }),
        pending
    );
    let nothing = (Said::UnknownName, String::new());
    for name in ["example.com", "reviews.bank", "10.96.9.9", ""] {
        let answer = bench.answer(|call| {
            call.authority = name.into();
            call.destination = "10.96.9.9:80".into();
        });
        assert_eq!(answer, nothing, "{name}");
    }
    type Edit = fn(&mut api::Call);
    let table: [(Edit, Said, &str); 8] = [
        (
            |call| call.spiffe_id = "spiffe://else/ns/shop/sa/cart".into(),
            Said::UnknownCaller,
            "this mesh",
        ),
        (
            |call| call.pod = "web-1".into(),
            Said::UnknownCaller,
            "does not run as service account cart",
        ),
        (|call| call.protocol = 9, Said::Refused, "protocol 9"),
        (
            |call| call.destination = "reviews:80".into(),
            Said::Refused,
            "10.96.0.7:8080",
        ),
        (
            |call| call.destination.clear(),
            Said::Refused,
            "no address with a port",
        ),
        (
            |call| call.pod = "p".repeat(300),
            Said::Refused,
            "pod is longer than 253 bytes",
        ),
        (
            |call| call.authority = "a".repeat(5000),
            Said::Refused,
            "authority is longer",
        ),
        (
            |call| call.spiffe_id = CART.repeat(100),
            Said::Refused,
            "spiffe_id is longer",
        ),
    ];
    for (edit, state, reason) in table {
        let answer = bench.answer(edit);
        assert_eq!(answer.0, state, "{reason}");
        assert!(answer.1.contains(reason), "{} has no {reason}", answer.1);
    }
    assert_eq!(bench.counted(Outcome::Malformed), 6);
    assert_eq!(bench.counted(Outcome::UnknownCaller), 2);
    assert_eq!(bench.counted(Outcome::UnknownName), 4);
    assert_eq!(bench.counted(Outcome::Pending), 4);
}

/// What is said of the service and the policy.
fn about(bench: &mut Bench, edit: impl FnOnce(&mut api::Call)) -> (Said, Option<String>, i32) {
    bench.answer(edit);
    let said = bench.last.clone().unwrap();
    let resolved = said.resolved.clone().map(|service| {
        let protocol = service.protocol().as_str_name();
        format!("{}:{}/{protocol}", service.host, service.port)
    });
    (said.state(), resolved, said.policy)
}

#[test]
fn whatever_comes_of_a_call_its_service_and_its_namespaces_policy_are_said() {
    let mut bench = bench();
    let reviews = || Some(format!("{REVIEWS}:80/HTTP"));
    let prefer = FallbackPolicy::PreferRedirect as i32;
    let pending = about(&mut bench, |_| {});
    assert_eq!(pending, (Said::Pending, reviews(), prefer));
    let tcp = about(&mut bench, |call| {
        call.authority.clear();
        call.destination = "10.96.1.1:5432".into();
    });
    let of_tcp = Some(format!("{REVIEWS}:5432/TCP"));
    assert_eq!(tcp, (Said::Pending, of_tcp, prefer));
    let nothing = about(&mut bench, |call| call.authority = "example.com".into());
    assert_eq!(nothing, (Said::UnknownName, None, prefer));
    // Not in mode sidecar, and nobody's pod.
    let bank = "spiffe://cluster.local/ns/bank/sa/teller";
    let annotated =
        json!({"metadata": {"annotations": {"lazymesh.dev/fallback": "redirect-only"}}});
    bench.world.put(Kind::Namespace, "bank", annotated);
    bench.world.put_pod("bank/teller-1", "teller");
    let only = FallbackPolicy::RedirectOnly as i32;
    let off = about(&mut bench, |call| {
        call.spiffe_id = bank.into();
        call.pod = "teller-1".into();
        call.authority = REVIEWS.into();
    });
    assert_eq!(off, (Said::Refused, reviews(), only));
    let other = about(&mut bench, |call| call.pod = "web-1".into());
    assert_eq!(other, (Said::UnknownCaller, reviews(), prefer));
    let stranger = about(&mut bench, |call| {
        call.spiffe_id = "spiffe://else/ns/shop/sa/cart".into();
    });
    let unsaid = FallbackPolicy::Unspecified as i32;
    assert_eq!(stranger, (Said::UnknownCaller, None, unsaid));
    // One whose pod never comes to be known.
    let waits = bench.answer(|call| call.pod = "cart-99".into());
    assert_eq!(waits.0, Said::Unspecified);
    bench.now += Duration::from_secs(2);
    bench.retry();
    let said = bench.said().remove(0);
    assert_eq!(said.state(), Said::UnknownCaller);
    assert_eq!(
        (said.resolved.unwrap().host, said.policy),
        (REVIEWS.into(), prefer)
    );
}

#[test]
fn a_call_is_pending_then_stored_then_written() {
    let mut bench = bench();
    let work = bench.take(vec![call(1)]);
    assert_eq!(
        hosts(&work),
        [("shop/cart".into(), vec![format!("{REVIEWS}:80/HTTP")], 1)]
    );
    let (_, _, edge) = work[&workload("cart")].0.edges().next().unwrap();
    assert_eq!(
        (edge.source, edge.last_seen.seconds()),
        (Source::Fallback, NOW)
    );
    assert_eq!(bench.states(), [(1, Said::Pending, false)]);
    bench.give(&["other"]);
    assert_eq!(bench.states(), []);
    bench.store(work);
    assert_eq!(bench.states(), [(1, Said::Pending, true)]);
    bench.give(&[REVIEWS]);
    assert_eq!(bench.states(), [(1, Said::Written, true)]);
    bench.give(&[]);
    assert_eq!(bench.states(), [], "it is not followed any more");
    assert!(!bench.book.owes());

    // Known from then on: nothing is to be stored, and the answer says for how long it is there.
    bench.give(&[REVIEWS]);
    bench.now += Duration::from_millis(250);
    let work = bench.take(vec![call(2)]);
    assert_eq!(hosts(&work), []);
    let said = bench.said();
    assert_eq!(
        (said[0].state(), said[0].done, said[0].written_ms_ago),
        (Said::Written, true, 250)
    );
}

#[test]
fn a_sidecar_may_be_written_before_the_record() {
    let mut bench = bench();
    let work = bench.take(vec![call(1)]);
    bench.give(&[REVIEWS]);
    // What was not sent yet is said once, as it is last.
    assert_eq!(bench.states(), [(1, Said::Written, false)]);
    assert!(bench.book.owes());
    bench.store(work);
    assert_eq!(bench.states(), [(1, Said::Written, true)]);
    assert!(!bench.book.owes());
}

#[test]
fn without_a_sidecar_of_ours_it_is_refused_and_learned_all_the_same() {
    let mut bench = bench();
    bench
        .given
        .none(&workload("cart"), "Sidecar shop/theirs selects it");
    let work = bench.take(vec![call(1)]);
    assert_eq!(hosts(&work).len(), 1);
    let said = bench.said();
    assert_eq!((said[0].state(), said[0].done), (Said::Refused, false));
    assert_eq!(said[0].reason, "Sidecar shop/theirs selects it");
    bench.store(work);
    assert_eq!(bench.states(), [(1, Said::Refused, true)]);
    // One that has just opted in gets its Sidecar a moment later.
    bench.give(&[]);
    assert_eq!(bench.states(), [(1, Said::Pending, true)]);
    assert_eq!(bench.counted(Outcome::NoSidecar), 1);
}

#[test]
fn a_caller_is_waited_for_a_second() {
    let mut bench = bench();
    let of = |id, pod: &str| api::Call {
        pod: pod.into(),
        ..call(id)
    };
    bench.take(vec![of(1, "cart-2"), of(2, "cart-3")]);
    assert_eq!(bench.states(), []);
    assert!(bench.book.waits() && bench.book.owes());
    assert_eq!(
        bench.book.next_time(),
        Some(bench.now + Duration::from_secs(1))
    );
    bench.world.put_pod("shop/cart-2", "cart");
    bench.now += Duration::from_millis(900);
    let work = bench.retry();
    assert_eq!(hosts(&work)[0].2, 1);
    assert_eq!(bench.states(), [(1, Said::Pending, false)]);
    bench.now += Duration::from_millis(100);
    bench.retry();
    let said = bench.said();
    assert_eq!(
        (said[0].id, said[0].state(), said[0].done),
        (2, Said::UnknownCaller, true)
    );
    assert_eq!(said[0].reason, "no pod shop/cart-3 is known");
    // One that turns out to be somebody else's.
    bench.take(vec![of(3, "bank-1")]);
    bench.world.put_pod("shop/bank-1", "bank");
    bench.retry();
    assert_eq!(bench.states(), [(3, Said::UnknownCaller, true)]);
}

#[test]
fn only_modes_that_trim_learn_from_calls() {
    let mut bench = bench();
    let of = |mode| Record {
        mode: Some(mode),
        ..Record::default()
    };
    for mode in [Mode::Off, Mode::Observe] {
        bench.set(&workload("cart"), of(mode), false);
        let refused = (Said::Refused, format!("shop/cart is in mode {mode}"));
        assert_eq!(bench.answer(|_| {}), refused);
    }
    // One that has settled, or just has no more: it calls in both ways.
    bench.set(&workload("cart"), of(Mode::OnDemand), false);
    assert_eq!(bench.answer(|_| {}).0, Said::Pending);
    bench.set(&workload("cart"), Record::default(), false);
    let mut body = pod_of("cart");
    body["metadata"]["labels"]["lazymesh.dev/mode"] = json!("off");
    bench.world.put(Kind::Pod, "shop/cart-1", body);
    assert_eq!(bench.answer(|_| {}).0, Said::Refused);
    bench.set(&workload("cart"), of(Mode::Sidecar), false);
    assert_eq!(
        bench.answer(|_| {}).0,
        Said::Pending,
        "the record's own mode goes first"
    );
    bench.world.put(Kind::Namespace, "shop", json!({}));
    bench.set(&workload("cart"), Record::default(), false);
    bench.world.put_pod("shop/cart-1", "cart");
    assert_eq!(bench.answer(|_| {}).1, "shop/cart is in mode off");
    assert_eq!(bench.counted(Outcome::Mode), 4);
}

#[test]
fn what_a_user_s_sidecar_leaves_out_is_no_name() {
    let mut bench = bench();
    let allow = |bench: &mut Bench, hosts: &[&str]| {
        let spec = json!({"egress": [{"hosts": hosts}]});
        bench
            .world
            .put(Kind::Sidecar, "shop/default", json!({"spec": spec}));
    };
    let pay = |call: &mut api::Call| call.authority = "pay.bank".into();
    allow(&mut bench, &["./*"]);
    assert_eq!(bench.answer(|_| {}).0, Said::Pending);
    assert_eq!(bench.answer(pay).0, Said::UnknownName);
    allow(&mut bench, &["./*", "bank/pay.bank.svc.cluster.local"]);
    assert_eq!(bench.answer(pay).0, Said::Pending);
}

#[test]
fn a_full_record_is_said_to_be() {
    let mut bench = bench();
    bench.limits.dependencies = 1;
    let to = |id, authority: &str| api::Call {
        authority: authority.into(),
        ..call(id)
    };
    // Both are new when they come; the store has room for one.
    let work = bench.take(vec![to(1, "pay.bank"), to(2, "reviews")]);
    assert_eq!(
        bench.states(),
        [(1, Said::Pending, false), (2, Said::Pending, false)]
    );
    bench.store(work);
    let said = bench.said();
    assert_eq!((said[0].state(), said[0].done), (Said::Pending, true));
    assert_eq!((said[1].state(), said[1].done), (Said::Refused, true));
    assert!(said[1].reason.contains("shop/cart"), "{}", said[1].reason);
    // Said already: nothing is written.
    assert_eq!(hosts(&bench.take(vec![to(3, "reviews")])), []);
    assert_eq!(bench.states(), [(3, Said::Refused, true)]);
    // Not said yet: the store must.
    let record = (*bench.state.record(&workload("cart")).unwrap()).clone();
    bench.set(&workload("cart"), record, false);
    let work = bench.take(vec![to(4, "reviews")]);
    assert_eq!(hosts(&work)[0].2, 0, "nobody waits for it");
    assert_eq!(bench.states(), [(4, Said::Refused, true)]);
    assert_eq!(bench.counted(Outcome::Capped), 2);
}

#[test]
fn what_can_never_be_stored_is_refused() {
    let mut bench = bench();
    let work = bench.take(vec![call(1)]);
    bench.said();
    let (_, (_, entries)) = work.into_iter().next().unwrap();
    bench
        .book
        .stored(&entries, &bench.state, &bench.given, bench.now);
    assert_eq!(bench.states(), [(1, Said::Refused, true)]);
}

#[test]
fn a_call_sent_again_is_judged_anew() {
    let mut bench = bench();
    let first = bench.take(vec![call(1)]);
    bench.said();
    let second = bench.take(vec![api::Call {
        authority: "pay.bank".into(),
        ..call(1)
    }]);
    assert_eq!(bench.states(), [(1, Said::Pending, false)]);
    bench.store(first);
    assert_eq!(
        bench.states(),
        [],
        "what was called before is not what is called now"
    );
    bench.store(second);
    assert_eq!(bench.states(), [(1, Said::Pending, true)]);
    bench.take(vec![api::Call {
        authority: "none".into(),
        ..call(1)
    }]);
    bench.give(&[REVIEWS]);
    assert_eq!(bench.states(), [(1, Said::UnknownName, true)]);
}

#[test]
fn a_workload_may_not_tell_of_calls_without_end() {
    let mut bench = bench();
    let batch = |from: u64| (from..from + 600).map(call).collect::<Vec<_>>();
    bench.take(batch(0));
    bench.take(batch(600));
    assert_eq!(bench.counted(Outcome::Pending), 1000);
    assert_eq!(bench.counted(Outcome::Throttled), 200);
    assert_eq!(bench.book.answers().unwrap().answers.len(), BATCH);
    let last = bench.said();
    assert_eq!(last.len(), 200);
    assert!(
        last.iter()
            .all(|answer| answer.state() == Said::Refused && answer.done)
    );
    // Another workload is not touched by it, and the first one gets on.
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let other = api::Call {
        spiffe_id: web.into(),
        pod: "web-1".into(),
        ..call(5000)
    };
    bench.take(vec![other]);
    assert_eq!(bench.said()[0].reason, "shop/web has no Sidecar of ours");
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.answer(|_| {}).0, Said::Pending);
}

#[test]
fn a_message_and_the_open_calls_have_an_end() {
    let mut bench = bench();
    let unknown = |id| api::Call {
        pod: format!("p{id}"),
        ..call(id)
    };
    bench.take((0..1010).map(unknown).collect());
    let said = bench.said();
    assert_eq!(said.len(), 10);
    assert!(
        said.iter()
            .all(|answer| answer.reason.contains("1000 calls"))
    );
    bench.take(vec![unknown(2000)]);
    assert_eq!(
        bench.states(),
        [(2000, Said::UnknownCaller, true)],
        "no more are waited for"
    );
    for second in 0..7_u64 {
        assert!(!bench.book.is_full(), "{second}");
        bench.take((0..500).map(|id| call(3000 + second * 500 + id)).collect());
        bench.now += Duration::from_secs(1);
    }
    assert!(bench.book.is_full());
    assert_eq!(bench.metrics.open.get(), 4500);
    drop(bench.book);
    assert_eq!(bench.metrics.open.get(), 0);
}

#[test]
fn one_that_is_stored_and_not_written_is_let_go_in_the_end() {
    let mut bench = bench();
    let work = bench.take(vec![call(1)]);
    bench.now += Duration::from_secs(11);
    bench.book.look(&bench.given, bench.now);
    assert!(bench.book.owes(), "it is kept until it is stored");
    assert_eq!(bench.book.next_time(), None);
    bench.store(work);
    assert_eq!(bench.states(), [(1, Said::Pending, true)]);
    bench.take(vec![call(2)]);
    assert_eq!(
        bench.book.next_time(),
        Some(bench.now + Duration::from_secs(10))
    );
    bench.now += Duration::from_secs(10);
    bench.book.look(&bench.given, bench.now);
    assert_eq!(bench.book.next_time(), None);
}

#[test]
fn without_a_mesh_every_call_is_refused() {
    let mut bench = bench();
    bench.book.refuse(&[call(1), call(2)], "no mesh");
    assert_eq!(
        bench.states(),
        [(1, Said::Refused, true), (2, Said::Refused, true)]
    );
    assert_eq!(bench.counted(Outcome::NoMesh), 2);
}

#[test]
fn times_are_believed_within_reason() {
    let mut bench = bench();
    let seen = |seconds| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into());
    for (given, kept) in [(NOW - 50, NOW - 50), (NOW + 60, NOW), (5, NOW)] {
        let work = bench.take(vec![api::Call {
            seen: seen(given),
            ..call(given)
        }]);
        let learned: &Learned = &work[&workload("cart")].0;
        assert_eq!(learned.edges().next().unwrap().2.last_seen.seconds(), kept);
    }
}
