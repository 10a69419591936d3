//! Against a controller of the test's own, over loopback.

use super::*;
use crate::pending::BATCH;
use crate::store::Store;
use dependency_graph::api::WatchRequest;
use dependency_graph::{Dependency, Port, Protocol, Workload};
use graph_client::fake::Fake;
use std::collections::HashSet;

async fn controller(fake: &Fake) -> Controller {
    Controller::new(&fake.serve().await.unwrap(), None, None).unwrap()
}

/// How many hosts were stored. No batch is longer than it may be.
fn stored(fake: &Fake) -> usize {
    let memory = fake.memory();
    assert!(memory.batches.iter().all(|batch| batch.len() <= BATCH));
    let all = memory.batches.iter().flatten();
    let hosts: HashSet<&str> = all
        .filter_map(|one| Some(one.dependency.as_ref()?.host.as_str()))
        .collect();
    hosts.len()
}

fn reporter() -> Reporter {
    Reporter::new(Metrics::new(&prometheus::Registry::new(), &Store::default()).unwrap())
}

fn add(reporter: &Reporter, from: usize, to: usize) {
    for i in from..to {
        let dependency = Dependency {
            host: format!("h{i}.shop.svc.cluster.local").parse().unwrap(),
            port: Port::try_from(80).unwrap(),
            protocol: Protocol::Http,
        };
        reporter.add(
            (
                Workload::new("shop", "Deployment", "cart").unwrap(),
                dependency,
            ),
            None,
        );
    }
}

/// Reports until nothing is pending.
async fn report_all(controller: &Controller, reporter: &Reporter) {
    let all = async {
        while !reporter.pending.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = reporter.report(controller) => unreachable!("it never ends"),
        done = tokio::time::timeout(Duration::from_secs(30), all) => done.unwrap(),
    }
}

#[tokio::test]
async fn what_waited_for_the_controller_goes_in_as_many_batches_as_it_takes() {
    let fake = Fake::default();
    let controller = controller(&fake).await;
    let reporter = reporter();
    add(&reporter, 0, 2 * BATCH + 1);
    report_all(&controller, &reporter).await;
    assert_eq!(stored(&fake), 2 * BATCH + 1);
    add(&reporter, 5000, 5001);
    report_all(&controller, &reporter).await;
    assert_eq!(stored(&fake), 2 * BATCH + 2);
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again() {
    let fake = Fake::default();
    fake.memory().lose_reports = 2;
    let controller = controller(&fake).await;
    let reporter = reporter();
    add(&reporter, 0, BATCH + 1);
    report_all(&controller, &reporter).await;
    assert_eq!(stored(&fake), BATCH + 1);
}

#[tokio::test]
async fn a_watch_tells_that_the_controller_was_heard() {
    let controller = controller(&Fake::default()).await;
    let (graph, metrics) = (Graph::default(), reporter().metrics);
    let watched = Watched {
        graph: &graph,
        metrics: &metrics,
    };
    tokio::select! {
        () = controller.watch(WatchRequest::default(), &watched) => unreachable!("it never ends"),
        heard = tokio::time::timeout(Duration::from_secs(30), graph.heard()) => heard.unwrap(),
    }
}
