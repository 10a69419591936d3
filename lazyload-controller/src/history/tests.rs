//! What is done with answers, against a server on loopback that says what the test wants. What a real one says:
//! `tests/prometheus.rs`.

use clap::Parser;
use dependency_graph::{Dependency, Learned, Mode, Port, Protocol, Source};
use prometheus::Registry;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::Cli;
use crate::expiry::Lack;
use crate::mesh::Kind;
use crate::mesh::fixture::{object, world};
use crate::resource::Entry;
use crate::store::memory::Memory as MemoryStore;

const HOUR: u64 = 3600;
/// So long ago that nothing here is before 1970, and so late that whatever is written as of now is later.
const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn cart() -> Workload {
    Workload::new("shop", "Deployment", "cart").unwrap()
}

fn dependency(name: &str) -> Dependency {
    Dependency {
        host: format!("{name}.shop.svc.cluster.local").parse().unwrap(),
        port: Port::try_from(80).unwrap(),
        protocol: Protocol::Http,
    }
}

/// Rows of an answer: workload, service, value.
type Rows = Vec<(&'static str, &'static str, f64)>;

fn answer(rows: &Rows) -> String {
    let row = |(workload, service, value): &(&str, &str, f64)| {
        let service = format!("{service}.shop.svc.cluster.local");
        let metric = json!({"source_workload": workload, "destination_service": service});
        json!({"metric": metric, "value": [1, value.to_string()]})
    };
    let result: Vec<_> = rows.iter().map(row).collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": result}}).to_string()
}

/// A Prometheus whose answer to a query is what the function says; the queries it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(say: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let queries = asked.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let query = loop {
                    stream.read_buf(&mut request).await.unwrap();
                    let text = String::from_utf8_lossy(&request);
                    let Some((_, form)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    // The last pair of the form.
                    if form.ends_with("ms") {
                        let mut pairs = form_urlencoded::parse(form.as_bytes());
                        break pairs.next().unwrap().1.into_owned();
                    }
                };
                let (status, body) = say(&query);
                queries.lock().push(query);
                let head = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        Self {
            url,
            asked,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// One that has series of the workloads for all the time, and of these calls over HTTP.
    async fn telling(calls: Rows, present: Rows) -> Self {
        Self::start(move |query| {
            let rows = match (
                query.contains("_tcp_"),
                query.starts_with("count_over_time"),
            ) {
                (true, _) => Rows::new(),
                (false, true) => present.clone(),
                (false, false) => calls.clone(),
            };
            (200, answer(&rows))
        })
        .await
    }
}

struct Rig {
    history: History,
    writing: Drain,
}

impl Rig {
    fn new(prometheus: Option<&str>, flags: &[&str], world: Option<World>) -> Self {
        let url = prometheus.map(|url| vec!["--prometheus", url]);
        let flags = [&["x"], flags, &url.unwrap_or_default()].concat();
        let serve = Cli::try_parse_from(flags).unwrap().serve;
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (state, store) = (
            State::new(metrics.clone()),
            Arc::new(MemoryStore::default()),
        );
        state.namespaces_synced();
        state.records_synced();
        let limits = Limits::default();
        let window = Duration::from_millis(1);
        let writer = Writer::new(
            store.clone(),
            state.clone(),
            limits,
            window,
            metrics.clone(),
        );
        let writing = Drain::new(Duration::from_secs(1));
        tokio::spawn(writer.clone().run(mpsc::channel(1).1, writing.clone()));
        let history = History::new(Parts {
            prometheus: Prometheus::new(&serve.prometheus).unwrap(),
            state,
            writer,
            store,
            world: world.map(|world| Arc::new(RwLock::new(world))),
            limits,
            args: serve.history,
            metrics,
            leader: Leading::alone(),
        });
        Self { history, writing }
    }

    /// With a record of calls so many hours ago.
    async fn with_calls(self, calls: &[(&str, u64)]) -> Self {
        let mut learned = Learned::new();
        for (name, age) in calls {
            learned.see(&dependency(name), at(NOW - age * HOUR), Source::OnDemand);
        }
        let ticket = self.history.parts.writer.submit(cart(), learned).await;
        ticket.await.unwrap();
        self
    }

    fn entry(&self) -> Option<Entry> {
        let (state, workload) = (&self.history.parts.state, cart());
        Some(Entry {
            record: (*state.record(&workload)?).clone(),
            keeping: state.keeping(&workload)?,
            workload,
            capped: false,
            stale: false,
            said: BTreeSet::default(),
            settle_after: None,
        })
    }

    fn hosts(&self) -> Vec<String> {
        let entry = self.entry();
        let learned = entry.iter().flat_map(|e| e.record.learned.edges());
        learned
            .map(|(host, _, _)| host.as_str().split('.').next().unwrap().to_owned())
            .collect()
    }

    fn lack(&self) -> Option<Lack> {
        self.entry().unwrap().keeping.lack
    }

    /// Looks every hour, so often.
    async fn hours(&self, hours: u64) {
        for hour in 0..hours {
            self.history.expire(at(NOW + hour * HOUR)).await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.writing.start();
    }
}

/// All the moments of two hours.
const WHOLE: f64 = 24.0;

#[tokio::test]
async fn what_is_not_called_is_forgotten_once_the_evidence_is_long_enough() {
    let server = Server::telling(vec![("cart", "used", 1.0)], vec![("cart", "", WHOLE)]).await;
    let flags = ["--expire-after", "10h", "--expiry-period", "1h"];
    let calls = [("used", 500), ("unused", 500)];
    let rig = Rig::new(Some(&server.url), &flags, None)
        .with_calls(&calls)
        .await;
    rig.hours(10).await;
    assert_eq!(
        rig.hosts(),
        ["unused", "used"],
        "two hours were there at first, and then nine"
    );
    rig.hours(12).await;
    assert_eq!(rig.hosts(), ["used"]);
    assert_eq!(rig.lack(), None);
    let entry = rig.entry().unwrap();
    let (_, _, edge) = entry.record.learned.edges().next().unwrap();
    assert!(
        edge.last_seen >= at(NOW + 9 * HOUR),
        "a quarter of the time late at the most"
    );
    assert_eq!(rig.history.parts.metrics.history.expired.get(), 1);

    // A replica that had it on its way does not bring it back; a new call does.
    let writer = &rig.history.parts.writer;
    let late = |seen| {
        let mut learned = Learned::new();
        learned.see(&dependency("unused"), seen, Source::OnDemand);
        learned
    };
    writer
        .submit(cart(), late(at(NOW + 5 * HOUR)))
        .await
        .await
        .unwrap();
    assert_eq!(rig.hosts(), ["used"]);
    writer
        .submit(cart(), late(at(NOW + 50 * HOUR)))
        .await
        .await
        .unwrap();
    assert_eq!(rig.hosts(), ["unused", "used"]);
    assert_eq!(rig.entry().unwrap().keeping.forgotten.iter().count(), 0);
}

#[tokio::test]
async fn without_an_address_nothing_expires_and_the_record_says_why() {
    let rig = Rig::new(None, &[], None);
    // As spec.expireAfter would be, which the memory's records have no way to get.
    let mut history = rig.history.clone();
    history.parts.args.expire_after = Some(Duration::from_secs(1));
    let rig = Rig {
        history,
        writing: rig.writing.clone(),
    }
    .with_calls(&[("unused", 500)])
    .await;
    rig.hours(30).await;
    assert_eq!(rig.hosts(), ["unused"]);
    assert_eq!(rig.lack(), Some(Lack::NoAddress));
}

#[tokio::test]
async fn failures_parts_and_silence_are_no_evidence() {
    let part =
        answer(&vec![("cart", "", WHOLE)]).replacen('{', r#"{"warnings":["a store is away"],"#, 1);
    let empty = answer(&Rows::new());
    for (status, body, lack) in [
        (503, "away".to_owned(), Lack::QueryFailed),
        (200, "<html>".to_owned(), Lack::QueryFailed),
        (200, part, Lack::QueryFailed),
        (200, empty, Lack::NoSeries),
    ] {
        let said = body.clone();
        let server = Server::start(move |_| (status, said.clone())).await;
        let flags = ["--expire-after", "2h"];
        let rig = Rig::new(Some(&server.url), &flags, None)
            .with_calls(&[("unused", 500)])
            .await;
        rig.hours(30).await;
        assert_eq!(rig.hosts(), ["unused"], "{body}");
        assert_eq!(rig.lack(), Some(lack), "{body}");
    }
}

#[tokio::test]
async fn after_a_gap_the_window_covers_it_or_the_evidence_begins_anew() {
    let server = Server::telling(vec![], vec![("cart", "", 1e9)]).await;
    let flags = ["--expire-after", "200h"];
    let rig = Rig::new(Some(&server.url), &flags, None)
        .with_calls(&[("unused", 500)])
        .await;
    let since = |rig: &Rig| rig.history.memory.lock().evidence[&cart()].since;
    let windows = |server: &Server| {
        let all = std::mem::take(&mut *server.asked.lock());
        all.iter().find_map(|q| {
            q.split_once("[")
                .map(|(_, w)| w.split('s').next().unwrap().to_owned())
        })
    };
    rig.history.expire(at(NOW)).await;
    assert_eq!(windows(&server).unwrap(), "7200");
    rig.history.expire(at(NOW + 7 * HOUR)).await;
    assert_eq!(windows(&server).unwrap(), (7 * HOUR).to_string());
    assert_eq!(since(&rig), at(NOW - 2 * HOUR));
    // A day is the most that is asked for at once.
    rig.history.expire(at(NOW + 32 * HOUR)).await;
    assert_eq!(windows(&server).unwrap(), "7200");
    assert_eq!(since(&rig), at(NOW + 30 * HOUR));
    assert_eq!(rig.hosts(), ["unused"]);
}

#[tokio::test]
async fn a_long_look_that_fails_is_followed_by_a_short_one() {
    let server = Server::start(|query| {
        let short = query.contains("[7200s");
        let status = if short { 200 } else { 503 };
        (status, answer(&vec![("cart", "", 1e9)]))
    })
    .await;
    let flags = ["--expire-after", "200h"];
    let rig = Rig::new(Some(&server.url), &flags, None)
        .with_calls(&[("unused", 500)])
        .await;
    let evidence = |rig: &Rig| rig.history.memory.lock().evidence[&cart()];
    rig.history.expire(at(NOW)).await;
    rig.history.expire(at(NOW + 9 * HOUR)).await;
    assert_eq!(evidence(&rig).until, at(NOW));
    rig.history.expire(at(NOW + 10 * HOUR)).await;
    assert_eq!(
        (evidence(&rig).since, evidence(&rig).until),
        (at(NOW + 8 * HOUR), at(NOW + 10 * HOUR))
    );
}

#[tokio::test]
async fn two_workloads_of_one_name_lose_nothing() {
    let server = Server::telling(vec![], vec![("cart", "", WHOLE)]).await;
    let flags = ["--expire-after", "2h"];
    let rig = Rig::new(Some(&server.url), &flags, None)
        .with_calls(&[("unused", 500)])
        .await;
    let mut learned = Learned::new();
    learned.see(&dependency("x"), at(NOW), Source::OnDemand);
    let namesake = Workload::new("shop", "StatefulSet", "cart").unwrap();
    rig.history
        .parts
        .writer
        .submit(namesake, learned)
        .await
        .await
        .unwrap();
    rig.hours(30).await;
    assert_eq!(rig.hosts(), ["unused"]);
    assert_eq!(rig.lack(), Some(Lack::AmbiguousName));
}

#[tokio::test]
async fn a_namespace_may_say_when_to_forget() {
    let server = Server::telling(vec![], vec![("cart", "", WHOLE)]).await;
    let mut world = world();
    let annotations = json!({"lazymesh.dev/expire-after": "5h"});
    world.put(
        Kind::Namespace,
        "shop",
        json!({"metadata": {"annotations": annotations}}),
    );
    let rig = Rig::new(Some(&server.url), &[], Some(world))
        .with_calls(&[("unused", 500)])
        .await;
    rig.hours(10).await;
    assert!(rig.hosts().is_empty());
    let nonsense = json!({"metadata": {"annotations": {"lazymesh.dev/expire-after": "soon"}}});
    let world = rig.history.parts.world.clone().unwrap();
    world
        .write()
        .apply(Kind::Namespace, &object("shop", nonsense))
        .unwrap();
    rig.hours(1).await;
    assert_eq!(rig.lack(), Some(Lack::InvalidExpireAfter));
    world
        .write()
        .apply(Kind::Namespace, &object("shop", json!({})))
        .unwrap();
    rig.hours(1).await;
    assert_eq!(
        (rig.lack(), rig.entry().unwrap().keeping.evidence),
        (None, None)
    );
}

#[tokio::test]
async fn what_is_too_much_is_asked_in_pieces() {
    let server = Server::start(|query| {
        if !query.contains(r#"source_workload=~"cart""#) {
            return (
                422,
                r#"{"status":"error","error":"too many samples"}"#.to_owned(),
            );
        }
        let tcp = query.contains("_tcp_");
        let calls = if tcp {
            Rows::new()
        } else {
            vec![("cart", "reviews", 1.0)]
        };
        (200, answer(&calls))
    })
    .await;
    let rig = Rig::new(Some(&server.url), &[], Some(observed()))
        .with_calls(&[])
        .await;
    rig.history.observe(at(NOW)).await;
    assert_eq!(rig.hosts(), ["reviews"]);
    let refused = server
        .asked
        .lock()
        .iter()
        .filter(|q| !q.contains("=~"))
        .count();
    assert_eq!(refused, 2, "HTTP and TCP, whole at first");
}

/// A mesh whose namespace `shop` is in mode observe, with the workload and a service.
fn observed() -> World {
    let mut world = world();
    let labels = json!({"metadata": {"labels": {"lazymesh.dev/mode": "observe"}}});
    world.put(Kind::Namespace, "shop", labels);
    world.put_pod("shop/cart-5d4f-x", "cart");
    world.service("shop/reviews", "10.96.1.1", &["http:80"]);
    world
}

#[tokio::test]
async fn observing_asks_for_the_past_and_then_for_what_is_new() {
    let calls = vec![
        ("cart", "reviews", 1.0),
        ("cart", "elsewhere", 1.0),
        ("gone", "reviews", 1.0),
    ];
    let server = Server::telling(calls, vec![]).await;
    let flags = ["--history", "3d", "--observe-period", "5m"];
    let rig = Rig::new(Some(&server.url), &flags, Some(observed()));
    rig.history.observe(at(NOW)).await;
    assert_eq!(rig.hosts(), ["reviews"]);
    let asked = std::mem::take(&mut *server.asked.lock());
    assert!(
        asked.iter().all(|query| query.contains("[259200s]")),
        "{asked:?}"
    );
    rig.history.observe(at(NOW + 300)).await;
    let asked = std::mem::take(&mut *server.asked.lock());
    assert!(
        asked.iter().all(|query| query.contains("[600s]")),
        "{asked:?}"
    );
    let entry = rig.entry().unwrap();
    let (_, _, edge) = entry.record.learned.edges().next().unwrap();
    assert_eq!(edge.source, Source::Telemetry);
}

#[tokio::test]
async fn a_namespace_is_warm_once_its_past_is_stored() {
    let server = Server::telling(vec![("cart", "reviews", 1.0)], vec![]).await;
    let rig = Rig::new(Some(&server.url), &[], Some(observed()));
    // As it is when it passes from observe to sidecar.
    let labels = json!({"metadata": {"labels": {"lazymesh.dev/mode": "sidecar"}}});
    let world = rig.history.parts.world.clone().unwrap();
    world
        .write()
        .apply(Kind::Namespace, &object("shop", labels))
        .unwrap();
    rig.history
        .parts
        .state
        .set_namespace("shop", Mode::Sidecar.into());
    let drain = Drain::new(Duration::from_secs(1));
    let running = tokio::spawn(rig.history.clone().run(drain.clone()));
    let warm = rig.history.warm_start();
    assert_eq!(warm.warmed("shop").await, Warm::Learned);
    assert_eq!(rig.hosts(), ["reviews"]);
    let asked = server.asked.lock().len();
    assert_eq!(warm.warmed("shop").await, Warm::Learned);
    assert_eq!(server.asked.lock().len(), asked, "once is enough");
    drain.start();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_waits_for_what_cannot_be() {
    let without = Rig::new(None, &[], Some(observed()));
    assert_eq!(
        without.history.warm_start().warmed("shop").await,
        Warm::NobodyToAsk
    );
    let server = Server::start(|_| (503, String::new())).await;
    let failing = Rig::new(Some(&server.url), &[], Some(observed()));
    let drain = Drain::new(Duration::from_secs(1));
    let running = tokio::spawn(failing.history.clone().run(drain.clone()));
    assert_eq!(
        failing.history.warm_start().warmed("shop").await,
        Warm::Failed
    );
    drain.start();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_asks_nobody() {
    // Nobody listens there; asking would fail, and say so at once.
    let mut rig = Rig::new(Some("http://127.0.0.1:1"), &[], Some(observed()));
    rig.history.parts.leader = Leading::default();
    let drain = Drain::new(Duration::from_secs(1));
    let running = tokio::spawn(rig.history.clone().run(drain.clone()));
    let warm = rig.history.warm_start();
    assert_eq!(warm.warmed("shop").await, Warm::TooLong);
    drain.start();
    running.await.unwrap().unwrap();
}
