//! What only the controller can start: a service is learned while its tunnel carries HTTP.

use clap::Parser;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use mesh_runtime::drain::Drain;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::config::Cli;
use crate::local::LocalExec;
use crate::metrics::Metrics;
use crate::serve;

const SOON: Duration = Duration::from_secs(10);

/// A tunnel of HTTP to a server that answers 204; the caller's end of it, and what knows whether it is learned.
async fn of_http(spoken: Spoken) -> (TcpStream, Rc<Origin>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    spawn_local(async move {
        let service = hyper::service::service_fn(|_| async {
            let answer = Response::builder().status(204);
            answer.body(Empty::<Bytes>::new())
        });
        let (stream, _) = server.accept().await.unwrap();
        let io = TokioIo::new(stream);
        match spoken {
            Spoken::Http1 => {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(io, service).await;
            }
            Spoken::Http2 => {
                let http = hyper::server::conn::http2::Builder::new(LocalExec);
                let _ = http.serve_connection(io, service).await;
            }
        }
    });
    let flags = ["global-proxy", "--no-sidecar", "--policy=relay-only"];
    let settings = Cli::try_parse_from(flags).unwrap().settings();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let worker = Worker::new(settings, None, metrics, Drain::new(SOON));
    let spiffe = SpiffeId::parse("spiffe://td/ns/shop/sa/client").unwrap();
    let headers = HeaderMap::new();
    let trust = worker.settings.trust;
    let incoming = head::opened(&to.to_string(), &headers, &spiffe, trust).unwrap();
    let origin = Rc::new(Origin::new(incoming));
    let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(near.local_addr().unwrap())
        .await
        .unwrap();
    let accepted = Accepted::new(near.accept().await.unwrap().0);
    let served = origin.clone();
    spawn_local(async move {
        serve::tunnel(&worker, accepted, spoken, served)
            .await
            .unwrap()
    });
    (caller, origin)
}

async fn head(caller: &mut TcpStream) -> String {
    caller
        .write_all(b"GET / HTTP/1.1\r\nhost: server.shop\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, caller.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn http1_closes_with_the_next_answer_after_it_is_learned() {
    let test = async {
        let (mut caller, origin) = of_http(Spoken::Http1).await;
        for _ in 0..2 {
            let answer = head(&mut caller).await;
            assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
            assert!(!answer.contains("connection:"), "{answer}");
        }
        origin.learn();
        // Not before: between two requests, closing would meet the next one half way.
        let answer = head(&mut caller).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let end = timeout(SOON, caller.read_u8()).await.unwrap();
        assert!(end.is_err(), "it is closed after that");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn http2_says_goaway_after_it_is_learned() {
    let test = async {
        let (caller, origin) = of_http(Spoken::Http2).await;
        let (mut send, connection) = http2::handshake(LocalExec, TokioIo::new(caller))
            .await
            .unwrap();
        let connection = spawn_local(connection);
        let request = || {
            let request = Request::get("http://server.shop/");
            request.body(Empty::<Bytes>::new()).unwrap()
        };
        let answer = timeout(SOON, send.send_request(request())).await.unwrap();
        assert_eq!(answer.unwrap().status(), 204);
        origin.learn();
        // Nothing is under way, so GOAWAY ends the connection.
        timeout(SOON, connection).await.unwrap().unwrap().unwrap();
        assert!(send.is_closed());
    };
    LocalSet::new().run_until(test).await;
}
