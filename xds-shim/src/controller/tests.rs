//! Against a controller of the test's own, over loopback.

use super::*;
use crate::pending::BATCH;
use crate::store::Store;
use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{CallsRequest, CallsResponse, ReportResponse, WatchRequest};
use dependency_graph::{Dependency, Port, Protocol, Workload};
use mesh_runtime::drain::Drain;
use mesh_runtime::grpc::Dialer;
use std::collections::HashSet;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

/// Stores what is reported; the first `lose` streams it ends after one batch, without a word.
#[derive(Debug, Clone, Default)]
struct Fake {
    stored: Arc<Mutex<HashSet<String>>>,
    lose: Arc<Mutex<u32>>,
}

#[tonic::async_trait]
impl DependencyGraph for Fake {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type CallsStream = ReceiverStream<Result<CallsResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut batches = request.into_inner();
        let (answers, outgoing) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                assert!(batch.observations.len() <= BATCH);
                let lost = {
                    let mut lose = fake.lose.lock();
                    let lost = *lose > 0;
                    *lose = lose.saturating_sub(1);
                    lost
                };
                if lost {
                    return;
                }
                let hosts = batch.observations.into_iter().filter_map(|o| o.dependency);
                fake.stored.lock().extend(hosts.map(|d| d.host));
                let answer = ReportResponse {
                    sequence: batch.sequence,
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, outgoing) = mpsc::channel(1);
        let whole = WatchResponse {
            snapshot_complete: true,
            ..Default::default()
        };
        answers
            .send(Ok(whole))
            .await
            .map_err(|_| Status::aborted("gone"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn calls(
        &self,
        _: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        Err(Status::unimplemented("a shim asks for no calls"))
    }
}

async fn serve(fake: Fake) -> Dialer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = DependencyGraphServer::new(fake);
    tokio::spawn(async move {
        mesh_runtime::grpc::serve(listener, None, service, &Drain::new(Duration::ZERO)).await
    });
    Dialer::new(&address, None, None).unwrap()
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
    let controller = Controller {
        dialer: serve(fake.clone()).await,
        token: None,
    };
    let reporter = reporter();
    add(&reporter, 0, 2 * BATCH + 1);
    report_all(&controller, &reporter).await;
    assert_eq!(fake.stored.lock().len(), 2 * BATCH + 1);
    add(&reporter, 5000, 5001);
    report_all(&controller, &reporter).await;
    assert_eq!(fake.stored.lock().len(), 2 * BATCH + 2);
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again() {
    let fake = Fake {
        lose: Arc::new(Mutex::new(2)),
        ..Fake::default()
    };
    let controller = Controller {
        dialer: serve(fake.clone()).await,
        token: None,
    };
    let reporter = reporter();
    add(&reporter, 0, BATCH + 1);
    report_all(&controller, &reporter).await;
    assert_eq!(fake.stored.lock().len(), BATCH + 1);
}

#[tokio::test]
async fn a_watch_tells_that_the_controller_was_heard() {
    let controller = Controller {
        dialer: serve(Fake::default()).await,
        token: None,
    };
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
