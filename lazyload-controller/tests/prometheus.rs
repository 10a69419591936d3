//! Learning and forgetting by a real Prometheus: `PROMETHEUS` and `PROMTOOL` name the programs, as `tests/testbed/setup
//! mesh` prints them: `cargo test -p lazyload-controller --test prometheus -- --ignored`. `make test` runs them through
//! `tests/mesh/controller.rs`. Each test has a server of its own, in a folder that goes with it.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/prometheus.rs"]
mod support;

use std::time::{Duration, SystemTime};

use dependency_graph::{Learned, Mode, Protocol, Source, Timestamp};
use lazyload_controller::history::Warm;
use mesh_runtime::drain::Drain;
use support::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Prometheus: the mesh test controller::on_a_real_prometheus runs it"]
async fn what_a_scraped_sidecar_calls_is_observed() {
    let exporter = Exporter::start().await;
    exporter.count(http("cart", "reviews"), 1);
    exporter.count(tcp("cart", "db"), 1);
    exporter.count(http("cart", "nowhere"), 5);
    exporter.count(http("gone", "reviews"), 5);
    let server = Server::start(Some(exporter.address), "").await;
    let rig = Rig::new(
        &server,
        &["--history", "1h", "--observe-period", "1s"],
        "observe",
    );
    // As the controller does it: again and again, until the first scrape is there.
    let drain = Drain::new(Duration::from_secs(5));
    let running = tokio::spawn(rig.history.clone().run(drain.clone()));
    let expected = ["db:5432/TCP", "reviews:80/HTTP", "reviews:9080/HTTP"];
    rig.until_learned("cart", &expected).await;
    let record = rig.record("cart").unwrap();
    let sources = record.learned.edges().map(|(_, _, edge)| edge.source);
    assert!(
        sources
            .into_iter()
            .all(|source| source == Source::Telemetry)
    );
    assert!(rig.record("gone").is_none(), "nobody knows it");

    // A counter that comes with its first call, and one that grows.
    exporter.count(http("cart", "ratings"), 1);
    let expected = [
        "db:5432/TCP",
        "ratings:80/HTTP",
        "reviews:80/HTTP",
        "reviews:9080/HTTP",
    ];
    rig.until_learned("cart", &expected).await;
    drain.start();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Prometheus: the mesh test controller::on_a_real_prometheus runs it"]
async fn a_namespace_begins_with_its_past() {
    let end = now().seconds();
    let past = Past::new(end - 6 * DAY, end)
        .series(http("cart", "reviews"), |t| {
            (t >= end - 2 * DAY).then_some(7)
        })
        // A pod that lived for some minutes, with a single call.
        .series(http("cart", "ratings"), |t| {
            (end - 3 * DAY..end - 3 * DAY + 600)
                .contains(&t)
                .then_some(1)
        })
        // Before the time asked for, and not since.
        .series(http("cart", "db"), |_| Some(3));
    let server = Server::start(None, &past.write()).await;
    let rig = Rig::new(&server, &["--history", "5d"], "on-demand");
    rig.state.set_namespace("shop", Mode::OnDemand.into());
    let drain = Drain::new(Duration::from_secs(5));
    let running = tokio::spawn(rig.history.clone().run(drain.clone()));
    assert_eq!(rig.history.warm_start().warmed("shop").await, Warm::Learned);
    let expected = ["ratings:80/HTTP", "reviews:80/HTTP", "reviews:9080/HTTP"];
    assert_eq!(rig.learned("cart"), expected);
    drain.start();
    running.await.unwrap().unwrap();
}

/// Expires every hour of a past, from so long ago.
async fn live_through(rig: &Rig, hours: std::ops::RangeInclusive<u64>, end: u64) {
    for ago in hours.rev() {
        rig.history
            .expire(Timestamp::from_seconds(end - ago * HOUR))
            .await;
    }
}

fn known(names: &[(&str, Protocol)], seen: u64) -> Learned {
    let mut learned = Learned::new();
    for (name, protocol) in names {
        let seen = Timestamp::from_seconds(seen);
        learned.see(&dependency(name, *protocol), seen, Source::OnDemand);
    }
    learned
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Prometheus: the mesh test controller::on_a_real_prometheus runs it"]
async fn what_is_not_called_for_long_is_forgotten() {
    let end = now().seconds();
    let begin = end - 3 * DAY;
    let past = Past::new(begin, end)
        // All the time one more each minute; once, by a counter that comes with its call; a connection that lasts.
        .series(http("cart", "reviews"), |t| Some((t - begin) / 60 + 1))
        .series(http("cart", "ratings"), |t| {
            (t >= end - 40 * HOUR).then_some(1)
        })
        .series(tcp("cart", "db"), |_| Some(1))
        .series(bytes("cart", "db"), |t| Some(t - begin))
        // Not called any more, though its counter is still there.
        .series(http("cart", "old"), |_| Some(9))
        .series(tcp("cart", "old"), |_| Some(9));
    let server = Server::start(None, &past.write()).await;
    let rig = Rig::new(&server, &["--expire-after", "1d"], "on-demand");
    let both = [Protocol::Http, Protocol::Tcp];
    let all = [
        ("reviews", both[0]),
        ("ratings", both[0]),
        ("old", both[0]),
        ("unused", both[0]),
    ];
    let tcp = [("db", both[1]), ("old", both[1])];
    rig.learn("cart", &known(&[&all[..], &tcp].concat(), begin))
        .await;
    live_through(&rig, 20..=60, end).await;
    let expected = ["db:80/TCP", "ratings:80/HTTP", "reviews:80/HTTP"];
    assert_eq!(rig.learned("cart"), expected);
    assert_eq!(rig.lack("cart"), None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Prometheus: the mesh test controller::on_a_real_prometheus runs it"]
async fn holes_and_silence_are_no_evidence() {
    let end = now().seconds();
    let begin = end - 3 * DAY;
    let hole = |t: &u64| (end - 45 * HOUR..end - 43 * HOUR).contains(t);
    let past = Past::new(begin, end)
        .series(http("cart", "reviews"), |t| {
            (!hole(&t)).then_some((t - begin) / 60 + 1)
        })
        .series(http("steady", "reviews"), |t| Some((t - begin) / 60 + 1));
    let server = Server::start(None, &past.write()).await;
    let rig = Rig::new(&server, &["--expire-after", "1d"], "on-demand");
    let names = [("reviews", Protocol::Http), ("unused", Protocol::Http)];
    for workload in ["cart", "steady", "silent"] {
        rig.learn(workload, &known(&names, begin)).await;
    }
    // After the hole there is nearly evidence enough again, and without it there would be.
    live_through(&rig, 15..=60, end).await;
    assert_eq!(rig.learned("steady"), ["reviews:80/HTTP"]);
    for workload in ["cart", "silent"] {
        assert_eq!(
            rig.learned(workload),
            ["reviews:80/HTTP", "unused:80/HTTP"],
            "{workload}"
        );
    }
    let lack = lazyload_controller::expiry::Lack::NoSeries;
    assert_eq!((rig.lack("cart"), rig.lack("silent")), (None, Some(lack)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Prometheus: the mesh test controller::on_a_real_prometheus runs it"]
async fn a_gap_in_asking_is_covered_by_the_next_question() {
    let end = now().seconds();
    let begin = end - 3 * DAY;
    let past = Past::new(begin, end)
        .series(http("cart", "reviews"), |t| Some((t - begin) / 60 + 1))
        // Called once, while nobody asked.
        .series(http("cart", "ratings"), |t| {
            Some(1 + u64::from(t >= end - 30 * HOUR))
        });
    let server = Server::start(None, &past.write()).await;
    let rig = Rig::new(&server, &["--expire-after", "1d"], "on-demand");
    let names = [
        ("reviews", Protocol::Http),
        ("ratings", Protocol::Http),
        ("old", Protocol::Http),
    ];
    rig.learn("cart", &known(&names, begin)).await;
    live_through(&rig, 40..=60, end).await;
    assert_eq!(rig.learned("cart").len(), 3);
    live_through(&rig, 23..=25, end).await;
    assert_eq!(rig.learned("cart"), ["ratings:80/HTTP", "reviews:80/HTTP"]);
}
