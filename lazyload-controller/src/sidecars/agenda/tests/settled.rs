//! The life of a workload that settles.

use super::*;
use crate::mesh::Kind;
use crate::resource::{Entry, Phase, Said};
use crate::settle::{self, Lack};
use crate::state::Versioned;

const MINUTE: Duration = Duration::from_secs(60);

impl Bench {
    /// A shop of mode `on-demand` that leads, whose flag says no time.
    fn on_demand() -> Self {
        let mut bench = Self::new();
        let on_demand = json!({"metadata": {"labels": {"lazymesh.dev/mode": "on-demand"}}});
        bench.world.put(Kind::Namespace, "shop", on_demand);
        bench.agenda.lead(true, bench.now().tick);
        bench.settle();
        assert_eq!(bench.world.ours(), (0, 0));
        bench
    }

    /// The store has this record of `cart`, and the watch tells so.
    fn store(&mut self, hosts: &[&str], after: Option<Duration>, said: BTreeSet<Said>) {
        let now = self.now().wall;
        let before = self.state.record(&workload("cart"));
        let mut record = before.map_or_else(Record::default, |record| (*record).clone());
        for host in hosts {
            let dependency = Dependency {
                host: full(host).parse().unwrap(),
                port: 80_u32.try_into().unwrap(),
                protocol: Protocol::Http,
            };
            record.learned.see(&dependency, now, Source::OnDemand);
        }
        let entry = Entry {
            workload: workload("cart"),
            record,
            capped: false,
            stale: false,
            said,
            settle_after: after.map(Ok),
            keeping: crate::expiry::Keeping::default(),
        };
        let revision = self.state.revision() + 1;
        let watcher = self.state.watch_within();
        self.state.set_record(Versioned { entry, revision });
        if !watcher.told().take(10).is_empty() {
            self.tell();
        }
    }

    /// As [`Bench::settle`], with a store that keeps what is said.
    fn settle_and_say(&mut self, after: Option<Duration>, seconds: u64) -> Vec<String> {
        let (mut all, until) = (Vec::new(), self.passed + Duration::from_secs(seconds));
        while self.passed < until {
            loop {
                let jobs = self.turn();
                let more = self
                    .agenda
                    .wakes_at()
                    .is_some_and(|at| at <= self.now().tick);
                if jobs.is_empty() && !more {
                    break;
                }
                for (key, job) in jobs {
                    all.push(key.to_string());
                    if let Job::Say { said, .. } = &job {
                        self.store(&[], after, said.clone());
                    }
                    self.write(&key, job);
                }
            }
            let next = self.agenda.wakes_at().map(|at| at - self.start);
            let next = next.filter(|next| *next > self.passed);
            self.passed = next.map_or(until, |next| next.min(until));
        }
        all
    }

    fn said_of_settling(&self) -> Option<(bool, String)> {
        let said = self.state.said(&workload("cart"))?;
        let mut said = said.into_iter();
        let said = said.find(|said| said.kind == settle::CONDITION)?;
        Some((said.holds, said.reason))
    }

    fn phase(&self) -> Phase {
        settle::phase(&self.state.said(&workload("cart")).unwrap())
    }
}

fn yes() -> Option<(bool, String)> {
    Some((true, "Quiet".to_owned()))
}

#[test]
fn it_settles_by_itself_stays_so_while_it_grows_and_goes_back() {
    let mut bench = Bench::on_demand();
    bench.store(&["pay.bank"], Some(MINUTE), BTreeSet::new());
    // What is learned meanwhile puts it off.
    assert_eq!(bench.settle_and_say(Some(MINUTE), 40), [""; 0]);
    bench.store(&["rates.bank"], Some(MINUTE), BTreeSet::new());
    assert_eq!(bench.settle_and_say(Some(MINUTE), 58), [""; 0]);
    assert_eq!(
        (bench.world.ours(), bench.phase()),
        ((0, 0), Phase::Learning)
    );
    let written = bench.settle_and_say(Some(MINUTE), 12);
    assert_eq!(
        written[0],
        "EnvoyFilter shop/lazymesh-fallback-deployment-cart"
    );
    assert_eq!(
        (bench.world.ours(), bench.phase()),
        ((1, 1), Phase::Settled)
    );
    assert_eq!(bench.said_of_settling(), yes());
    assert_eq!(bench.agenda.settled(&bench.world), 1);
    assert!(bench.stage().announced.is_empty());
    assert!(matches!(bench.standing("rates.bank"), Standing::Given(_)));
    assert_eq!(bench.settle_and_say(Some(MINUTE), 600), [""; 0]);

    // A stray is learned: the Sidecar grows in its two steps, and the workload stays what it is.
    bench.learn("cart.shop");
    let said = bench.state.said(&workload("cart")).unwrap();
    bench.store(&["cart.shop"], Some(MINUTE), said);
    let written = bench.settle_and_say(Some(MINUTE), 30);
    assert_eq!(
        written,
        [format!("Sidecar {CART}"), format!("Sidecar {CART}")]
    );
    assert!(matches!(bench.standing("cart.shop"), Standing::Given(_)));
    assert_eq!(bench.said_of_settling(), yes());

    // Its record asks for it no more.
    let said = bench.state.said(&workload("cart")).unwrap();
    bench.store(&[], None, said);
    let written = bench.settle_and_say(None, 30);
    assert_eq!(written[0], format!("Sidecar {CART}"));
    assert_eq!(
        (bench.world.ours(), bench.phase()),
        ((0, 0), Phase::Learning)
    );
    assert_eq!(
        (bench.said_of_settling(), bench.agenda.settled(&bench.world)),
        (None, 0)
    );
    bench.touch();
    bench.settle_and_say(None, 10);
    assert!(bench.agenda.places.is_empty());
}

#[test]
fn who_starts_anew_goes_on_with_what_the_record_says() {
    let mut bench = Bench::on_demand();
    bench.store(&["pay.bank"], Some(MINUTE), BTreeSet::new());
    bench.settle_and_say(Some(MINUTE), 100);
    assert_eq!(bench.phase(), Phase::Settled);
    // Learned this moment: by the time alone it would not have settled.
    let said = bench.state.said(&workload("cart")).unwrap();
    bench.store(&["rates.bank"], Some(MINUTE), said);
    bench.settle_and_say(Some(MINUTE), 5);
    let fresh = Bench::new();
    bench.agenda = fresh.agenda;
    bench.news(&News {
        everything: true,
        ..News::default()
    });
    bench.agenda.lead(true, bench.now().tick);
    assert_eq!(bench.settle_and_say(Some(MINUTE), 30), [""; 0]);
    assert_eq!(bench.phase(), Phase::Settled);
}

#[test]
fn what_has_been_quiet_for_long_settles_when_it_is_asked_for() {
    let mut bench = Bench::on_demand();
    bench.store(&["pay.bank"], None, BTreeSet::new());
    bench.passed += MINUTE * 2;
    assert_eq!(bench.settle_and_say(None, 60), [""; 0]);
    bench.store(&[], Some(MINUTE), BTreeSet::new());
    bench.settle_and_say(Some(MINUTE), 10);
    assert_eq!(bench.phase(), Phase::Settled);
}

#[test]
fn why_it_does_not_is_said_and_remembered_or_not() {
    let mut bench = Bench::on_demand();
    bench.store(&[], Some(MINUTE), BTreeSet::new());
    bench.settle_and_say(Some(MINUTE), 10);
    let lack = Lack::NothingLearned.as_str().to_owned();
    assert_eq!(bench.said_of_settling(), Some((false, lack)));
    assert_eq!(bench.phase(), Phase::Learning);
    let theirs = json!({"spec": {"workloadSelector": {"labels": {"app": "cart"}}}});
    bench.world.put(Kind::Sidecar, "shop/theirs", theirs);
    let said = bench.state.said(&workload("cart")).unwrap();
    bench.store(&["pay.bank"], Some(MINUTE), said);
    bench.touch();
    bench.settle_and_say(Some(MINUTE), 100);
    let said = Some((false, "UserSidecar".to_owned()));
    assert_eq!(
        (bench.said_of_settling(), bench.phase()),
        (said, Phase::Settling)
    );
    bench.world.delete(Kind::Sidecar, &name("shop/theirs"));
    bench.touch();
    bench.settle_and_say(Some(MINUTE), 10);
    assert_eq!(
        (bench.said_of_settling(), bench.phase()),
        (yes(), Phase::Settled)
    );
}

#[test]
fn the_flag_speaks_for_records_that_say_nothing() {
    let mut bench = Bench::on_demand();
    bench.agenda.choices.settings.settle_after = Some(MINUTE);
    bench.store(&["pay.bank"], None, BTreeSet::new());
    bench.settle_and_say(None, 80);
    assert_eq!(bench.phase(), Phase::Settled);
    let said = bench.state.said(&workload("cart")).unwrap();
    bench.store(&[], Some(Duration::ZERO), said);
    bench.settle_and_say(Some(Duration::ZERO), 30);
    assert_eq!(
        (bench.world.ours(), bench.phase()),
        ((0, 0), Phase::Learning)
    );
}
