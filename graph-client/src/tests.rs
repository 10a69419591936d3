//! Against a controller of the test's own, over loopback.

use std::sync::Arc;
use std::time::Duration;

use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{
    CallsRequest, CallsResponse, NamespaceMode, ReportRequest, ReportResponse, WatchRequest,
    WatchResponse,
};
use mesh_runtime::drain::Drain;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{Controller, Sink};

type Updates = mpsc::Sender<Result<WatchResponse, Status>>;

/// Gives each watch its state in two parts and ends it, all but the last.
#[derive(Clone, Debug, Default)]
struct Fake {
    lose: Arc<Mutex<u32>>,
    asked: Arc<Mutex<Vec<(String, bool)>>>,
    open: Arc<Mutex<Vec<Updates>>>,
}

#[tonic::async_trait]
impl DependencyGraph for Fake {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type CallsStream = ReceiverStream<Result<CallsResponse, Status>>;

    async fn report(
        &self,
        _: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        Err(Status::unimplemented("nothing is reported here"))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.and_then(|token| token.to_str().ok());
        let told = (
            token.unwrap_or_default().to_owned(),
            request.get_ref().namespaces_only,
        );
        self.asked.lock().push(told);
        let (answers, outgoing) = mpsc::channel(2);
        for complete in [false, true] {
            let part = WatchResponse {
                namespaces: vec![NamespaceMode {
                    namespace: format!("complete-{complete}"),
                    ..Default::default()
                }],
                snapshot_complete: complete,
                ..Default::default()
            };
            let sent = answers.send(Ok(part)).await;
            sent.map_err(|_| Status::aborted("gone"))?;
        }
        let mut lose = self.lose.lock();
        if *lose == 0 {
            self.open.lock().push(answers);
        }
        *lose = lose.saturating_sub(1);
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn calls(
        &self,
        _: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        Err(Status::unimplemented("nobody calls here"))
    }
}

async fn serve(fake: Fake) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = DependencyGraphServer::new(fake);
    tokio::spawn(async move {
        mesh_runtime::grpc::serve(listener, None, service, &Drain::new(Duration::ZERO)).await
    });
    address
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Told {
    Begin,
    Apply(String, bool),
    Connected(bool),
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Told>>);

impl Sink for Notes {
    fn begin(&self) {
        self.0.lock().push(Told::Begin);
    }

    fn apply(&self, update: WatchResponse) -> Vec<String> {
        let name = update.namespaces[0].namespace.clone();
        let told = Told::Apply(name, update.snapshot_complete);
        self.0.lock().push(told);
        vec!["an entry that is not valid".into()]
    }

    fn connected(&self, connected: bool) {
        self.0.lock().push(Told::Connected(connected));
    }
}

/// Watches until `enough` says so.
async fn watch_until(controller: &Controller, notes: &Notes, enough: impl Fn(&[Told]) -> bool) {
    let request = WatchRequest {
        namespaces_only: true,
    };
    let poll = async {
        while !enough(&notes.0.lock()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = controller.watch(request, notes) => unreachable!("it never ends"),
        done = tokio::time::timeout(Duration::from_secs(30), poll) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_watch_tells_the_state_and_begins_again_when_it_is_lost() {
    let fake = Fake {
        lose: Arc::new(Mutex::new(1)),
        ..Fake::default()
    };
    let controller = Controller::new(&serve(fake.clone()).await, None, None).unwrap();
    let notes = Notes::default();
    let connected = |told: &[Told]| told.iter().filter(|t| **t == Told::Connected(true)).count();
    watch_until(&controller, &notes, |told| connected(told) == 2).await;
    let once = [
        Told::Begin,
        Told::Apply("complete-false".into(), false),
        Told::Apply("complete-true".into(), true),
        Told::Connected(true),
    ];
    let lost = [Told::Connected(false)];
    assert_eq!(*notes.0.lock(), [&once[..], &lost, &once].concat());
    let asked = [(String::new(), true), (String::new(), true)];
    assert_eq!(*fake.asked.lock(), asked);
}

#[tokio::test]
async fn the_token_is_read_at_every_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let fake = Fake::default();
    let token = Some(file.path().to_owned());
    let controller = Controller::new(&serve(fake.clone()).await, None, token).unwrap();
    for text in ["one", "two"] {
        std::fs::write(file.path(), text).unwrap();
        let notes = Notes::default();
        watch_until(&controller, &notes, |told| {
            told.contains(&Told::Connected(true))
        })
        .await;
    }
    let asked = fake.asked.lock();
    let tokens: Vec<_> = asked.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(tokens, ["Bearer one", "Bearer two"]);
}

#[tokio::test]
async fn an_address_that_cannot_be_dialed_is_named_with_its_flag() {
    let of = |address: &str| {
        let error = Controller::new(address, None, None).unwrap_err();
        error.to_string()
    };
    assert!(of("controller:15020").starts_with("--controller: address \"controller:15020\""));
    assert!(of("https://controller:15020").contains("root certificates"));
    let roots = std::path::Path::new("/nowhere/roots.pem");
    let error = Controller::new("https://controller:15020", Some(roots), None).unwrap_err();
    assert!(
        error.to_string().starts_with("--controller-ca: "),
        "{error}"
    );
}
