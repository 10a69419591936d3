//! Bursts, failures and the end, on a store that does as it is told. Time is the test's own.

use std::sync::atomic::{AtomicUsize, Ordering};

use dependency_graph::{Dependency, Port, Protocol, Source, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::Registry;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::advance;

use super::*;
use crate::store::memory::Memory;

/// Fails so many times, then is a memory.
#[derive(Debug, Default)]
struct Flaky {
    failures: AtomicUsize,
    unwritable: bool,
    panics: AtomicUsize,
    writes: AtomicUsize,
    memory: Memory,
}

impl Store for Flaky {
    fn follow(
        self: Arc<Self>,
        _: State,
        _: mpsc::Sender<Workload>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        std::future::pending().boxed()
    }

    fn learn<'a>(
        &'a self,
        workload: &'a Workload,
        calls: &'a Learned,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Stored, Error>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let panic = self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert!(panic.is_err(), "on purpose");
        if self.unwritable {
            return std::future::ready(Err(Error::Unwritable("gone".into()))).boxed();
        }
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => std::future::ready(Err(Error::Unavailable("down".into()))).boxed(),
            Err(_) => self.memory.learn(workload, calls, limits),
        }
    }

    fn revise<'a>(
        &'a self,
        workload: &'a Workload,
        verdict: &'a crate::expiry::Verdict,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        self.memory.revise(workload, verdict, limits)
    }
}

struct Bench {
    store: Arc<Flaky>,
    state: State,
    writer: Writer,
    drain: Drain,
    running: tokio::task::JoinHandle<Result<(), Infallible>>,
    stale: mpsc::Sender<Workload>,
}

const WINDOW: Duration = Duration::from_millis(20);

fn bench(store: Flaky) -> Bench {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let (store, state) = (Arc::new(store), State::new(metrics.clone()));
    let writer = Writer::new(
        store.clone(),
        state.clone(),
        Limits::default(),
        WINDOW,
        metrics,
    );
    let drain = Drain::new(Duration::from_secs(60));
    let (stale, of_stale) = mpsc::channel(4);
    let running = tokio::spawn(writer.clone().run(of_stale, drain.clone()));
    Bench {
        store,
        state,
        writer,
        drain,
        running,
        stale,
    }
}

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

fn calls(host: &str) -> Learned {
    let (host, port) = (host.parse().unwrap(), Port::try_from(80).unwrap());
    let mut learned = Learned::new();
    let dependency = Dependency {
        host,
        port,
        protocol: Protocol::Http,
    };
    learned.see(&dependency, Timestamp::from_seconds(7), Source::OnDemand);
    learned
}

impl Bench {
    async fn submit(&self, name: &str, host: &str) -> Ticket {
        self.writer.submit(workload(name), calls(host)).await
    }

    fn writes(&self) -> usize {
        self.store.writes.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_write_a_workload() {
    let bench = bench(Flaky::default());
    let mut tickets = Vec::new();
    for index in 0..10 {
        tickets.push(bench.submit("a", &format!("h{index}.x")).await);
        tickets.push(bench.submit("b", &format!("h{index}.x")).await);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(bench.writes(), 2);
    assert_eq!(
        bench.state.record(&workload("a")).unwrap().learned.len(),
        10
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_it_is_stored() {
    let bench = bench(Flaky {
        failures: 3.into(),
        ..Flaky::default()
    });
    let mut ticket = bench.submit("a", "h.x").await;
    advance(WINDOW + Duration::from_millis(50)).await;
    tokio::task::yield_now().await;
    assert_eq!(ticket.try_recv(), Err(TryRecvError::Empty));
    assert!(bench.state.record(&workload("a")).is_none(), "nor known");
    ticket.await.unwrap();
    assert_eq!(bench.writes(), 4);
    assert!(bench.state.record(&workload("a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_comes_during_failures_goes_with_the_next_attempt() {
    let bench = bench(Flaky {
        failures: 2.into(),
        ..Flaky::default()
    });
    let first = bench.submit("a", "h.x").await;
    while bench.writes() == 0 {
        advance(Duration::from_millis(1)).await;
    }
    let second = bench.submit("a", "i.x").await;
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(bench.writes(), 3);
    assert_eq!(bench.state.record(&workload("a")).unwrap().learned.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_workload_failing_holds_up_no_other() {
    let bench = bench(Flaky {
        failures: 1.into(),
        ..Flaky::default()
    });
    let mut failing = bench.submit("a", "h.x").await;
    while bench.writes() == 0 {
        advance(Duration::from_millis(1)).await;
    }
    bench.submit("b", "h.x").await.await.unwrap();
    assert_eq!(failing.try_recv(), Err(TryRecvError::Empty));
    failing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_stored_is_let_go() {
    let bench = bench(Flaky {
        unwritable: true,
        ..Flaky::default()
    });
    bench.submit("a", "h.x").await.await.unwrap();
    assert_eq!(bench.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_stores_what_came_before_it() {
    let bench = bench(Flaky {
        failures: 2.into(),
        ..Flaky::default()
    });
    let ticket = bench.submit("a", "h.x").await;
    bench.drain.start();
    bench.running.await.unwrap().unwrap();
    ticket.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stale_records_are_written_again() {
    let bench = bench(Flaky::default());
    bench.stale.send(workload("a")).await.unwrap();
    while bench.state.record(&workload("a")).is_none() {
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn too_much_waits() {
    let bench = bench(Flaky {
        failures: usize::MAX.into(),
        ..Flaky::default()
    });
    let mut large = Learned::new();
    for index in 0..ROOM {
        large.merge(&calls(&format!("h{index}.x")));
    }
    let _ticket = bench.writer.submit(workload("a"), large).await;
    let next = tokio::time::timeout(Duration::from_secs(60), bench.submit("b", "h.x"));
    assert!(next.await.is_err());
}

fn told(bench: &Bench, name: &str) -> Option<usize> {
    let view = bench.state.view(&workload(name));
    view.map(|record| record.learned.len())
}

#[tokio::test(start_paused = true)]
async fn watchers_do_not_wait_for_the_store_and_hear_it_once() {
    let bench = bench(Flaky {
        failures: 3.into(),
        ..Flaky::default()
    });
    let watcher = bench.state.watch();
    let ticket = bench.submit("a", "h.x").await;
    assert_eq!(bench.writes(), 0);
    assert_eq!(told(&bench, "a"), Some(1));
    assert_eq!(watcher.told().take(9).len(), 1);
    assert_eq!(bench.state.watch().snapshot.len(), 1, "a new watcher too");
    ticket.await.unwrap();
    assert!(bench.state.record(&workload("a")).is_some());
    assert_eq!(watcher.told().take(9), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_and_cannot_be_stored_is_taken_back() {
    let bench = bench(Flaky {
        unwritable: true,
        ..Flaky::default()
    });
    let watcher = bench.state.watch();
    let ticket = bench.submit("a", "h.x").await;
    assert_eq!(watcher.told().take(9).len(), 1);
    ticket.await.unwrap();
    assert_eq!(watcher.told().take(9).len(), 1);
    assert_eq!(told(&bench, "a"), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_panics_is_not_acknowledged_and_blocks_nothing() {
    let bench = bench(Flaky {
        panics: 1.into(),
        ..Flaky::default()
    });
    assert!(bench.submit("a", "h.x").await.await.is_err());
    while told(&bench, "a").is_some() {
        advance(Duration::from_millis(1)).await;
    }
    bench.submit("a", "h.x").await.await.unwrap();
    assert_eq!(told(&bench, "a"), Some(1));
    bench.drain.start();
    bench.running.await.unwrap().unwrap();
}
