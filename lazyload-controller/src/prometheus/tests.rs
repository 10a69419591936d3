//! Questions as they are asked, answers as they may come, and a server on loopback that does not behave.

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use dependency_graph::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::query::Scope;
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(flags: &[&str]) -> Result<Args, clap::Error> {
    Cli::try_parse_from([&["x"], flags].concat()).map(|cli| cli.args)
}

fn at() -> Timestamp {
    Timestamp::from_seconds(1_700_000_000)
}

const GOOD: &str = r#"{"status":"success","data":{"resultType":"vector","result":[
    {"metric":{"source_workload":"cart","destination_service":"reviews.shop.svc.cluster.local"},"value":[1700000000.5,"3"]},
    {"metric":{"source_workload":"cart","other":"x"},"value":[1700000000,"NaN"]},
    {"metric":{},"value":[1700000000,"1e3"]}]}}"#;

#[test]
fn an_answer_is_read() {
    let answer = answer::parse(GOOD.as_bytes()).unwrap();
    assert!(answer.complete);
    let row = |workload: &str, service: &str, value| Row {
        workload: workload.into(),
        service: service.into(),
        value,
    };
    let expected = [
        row("cart", "reviews.shop.svc.cluster.local", 3.0),
        row("", "", 1000.0),
    ];
    assert_eq!(answer.rows, expected, "what is no number is left out");
}

#[test]
fn a_part_is_told_from_all() {
    let with = |warnings: &str| {
        let text = GOOD.replacen('{', &format!(r#"{{"warnings":{warnings},"#), 1);
        answer::parse(text.as_bytes()).unwrap().complete
    };
    assert!(with("[]"));
    assert!(with(r#"["PromQL info: metric might not be a counter"]"#));
    assert!(!with(
        r#"["PromQL info: x", "remote read: a store is away"]"#
    ));
}

#[test]
fn what_is_no_answer_is_refused_and_not_repeated_at_length() {
    let long = format!(r#"{{"status":"error","error":"{}"}}"#, "x".repeat(1 << 20));
    let nested = "[".repeat(100_000);
    for bad in [
        "",
        "{}",
        "null",
        "<html>login</html>",
        "\u{0}",
        r#"{"status":"success"}"#,
        r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#,
        r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"x"]}]}}"#,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"source_workload":7},"value":[1,"1"]}]}}"#,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":["1",1]}]}}"#,
        &GOOD[..GOOD.len() / 2],
        &long,
        &nested,
    ] {
        let fault = answer::parse(bad.as_bytes()).unwrap_err();
        assert!(matches!(fault, Fault::Malformed(_)), "{fault}");
        assert!(fault.to_string().len() < 500);
    }
}

#[test]
fn every_fault_has_a_label() {
    let faults = [
        Fault::Unreachable(String::new()),
        Fault::Timeout(Duration::ZERO),
        Fault::Refused(500, String::new()),
        Fault::TooMuch(String::new()),
        Fault::Malformed(String::new()),
        Fault::Token(String::new()),
    ];
    assert_eq!(faults.map(|fault| fault.as_str()), Fault::NAMES);
}

#[test]
fn questions_are_promql_on_istios_metrics() {
    let all = Scope {
        namespace: "shop".into(),
        workloads: vec![],
    };
    let hour = Duration::from_secs(3600);
    let selector =
        r#"{reporter="source",source_workload_namespace="shop",destination_service!=""}"#;
    let http = all.called(Protocol::Http, hour);
    let by = "by (source_workload, destination_service)";
    let metrics = [
        "istio_requests_total",
        "istio_request_messages_total",
        "istio_response_messages_total",
    ];
    for metric in metrics {
        let part = format!("sum {by} (increase({metric}{selector}[3600s])) > 0");
        assert!(http.contains(&part), "{http}");
    }
    let came = format!(
        "or count {by} (last_over_time(istio_requests_total{selector}[3600s]) unless istio_requests_total{selector} offset 3600s)"
    );
    assert!(http.ends_with(&came), "{http}");
    let tcp = all.called(Protocol::Tcp, hour);
    assert!(tcp.contains("istio_tcp_connections_opened_total") && !tcp.contains("requests"));
    assert_eq!(
        all.present(Protocol::Tcp, hour, Duration::from_secs(300)),
        format!(
            "count_over_time((count by (source_workload) (istio_tcp_connections_opened_total{selector}))[3600s:300s])"
        )
    );
}

#[test]
fn names_are_quoted() {
    let scope = Scope {
        namespace: "a\"} or vector(1) #\\\n".into(),
        workloads: vec!["cart".into(), "cart.v2".into()],
    };
    let query = scope.present(Protocol::Http, Duration::ZERO, Duration::ZERO);
    let namespace = r#"source_workload_namespace="a\"} or vector(1) #\\\n","#;
    assert!(query.contains(namespace), "{query}");
    assert!(
        query.contains(r#"source_workload=~"cart|cart[.]v2"}"#),
        "{query}"
    );
    assert!(query.ends_with("[1s:1s])"), "{query}");
}

#[test]
fn addresses_are_checked() {
    for good in [
        "http://prometheus:9090",
        "https://prom.example.com/prometheus/",
        "http://[::1]:9090/",
    ] {
        assert!(args(&["--prometheus", good]).is_ok(), "{good}");
    }
    for bad in [
        "prometheus:9090",
        "ftp://prometheus",
        "/path",
        "",
        "http://user:secret@prometheus",
        "http://prometheus/?x=y",
    ] {
        let error = args(&["--prometheus", bad]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("hint")), "{bad}");
    }
    assert!(args(&["--prometheus-ca", "x"]).is_err(), "of whom?");
}

/// Answers the first connection as told, and gives back what was asked.
async fn server(answer: Vec<u8>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = request(&mut stream).await;
        // Whoever has read enough closes.
        let _ = stream.write_all(&answer).await;
        asked
    });
    (address, serving)
}

/// A request with its body.
async fn request(stream: &mut TcpStream) -> String {
    let mut asked = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        asked += std::str::from_utf8(&buffer[..read]).unwrap();
        let Some((head, body)) = asked.split_once("\r\n\r\n") else {
            assert!(read > 0, "{asked}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.unwrap().parse().unwrap() {
            return asked;
        }
    }
}

fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

async fn asked(address: SocketAddr, flags: &[&str]) -> Result<Answer, Error> {
    let url = format!("http://{address}/base/");
    let args = args(&[&["--prometheus", &url][..], flags].concat()).unwrap();
    let prometheus = Prometheus::new(&args).unwrap().unwrap();
    prometheus.ask("up == 1", at()).await
}

async fn fault(answer: Vec<u8>, flags: &[&str]) -> Fault {
    let (address, serving) = server(answer).await;
    let error = asked(address, flags).await.unwrap_err();
    serving.abort();
    assert!(error.to_string().contains("up == 1"), "{error}");
    error.fault
}

#[tokio::test]
async fn a_query_is_a_form() {
    let (address, serving) = server(response("200 OK", GOOD)).await;
    assert_eq!(asked(address, &[]).await.unwrap().rows.len(), 2);
    let asked = serving.await.unwrap();
    assert!(
        asked.starts_with("POST /base/api/v1/query HTTP/1.1\r\n"),
        "{asked}"
    );
    let form = "\r\n\r\nquery=up+%3D%3D+1&time=1700000000&timeout=30000ms";
    assert!(asked.ends_with(form), "{asked}");
    assert!(!asked.contains("authorization"));
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join("file");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_token_is_shown_if_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "secret\n");
    let (address, serving) = server(response("200 OK", GOOD)).await;
    let flags = ["--prometheus-token-file", &path];
    asked(address, &flags).await.unwrap();
    let asked_for = serving.await.unwrap();
    assert!(
        asked_for.contains("\r\nauthorization: Bearer secret\r\n"),
        "{asked_for}"
    );
    for text in ["two\nlines", "\u{7f}"] {
        file(folder.path(), text);
        let error = asked(address, &flags).await.unwrap_err();
        assert!(matches!(error.fault, Fault::Token(_)), "{error}");
        assert!(!error.to_string().contains(text));
    }
    std::fs::remove_file(&path).unwrap();
    let error = asked(address, &flags).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Token(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_says_why() {
    let body = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    let refused = fault(response("400 Bad Request", body), &[]).await;
    assert_eq!(refused, Fault::Refused(400, "parse error".into()));
    let page = fault(response("401 Unauthorized", "<html>"), &[]).await;
    assert_eq!(page, Fault::Refused(401, "Unauthorized".into()));
    let long = fault(response("500 No", &"x".repeat(1 << 20)), &[]).await;
    assert_eq!(long, Fault::Refused(500, "Internal Server Error".into()));
    let many =
        r#"{"status":"error","error":"query processing would load too many samples into memory"}"#;
    let much = fault(response("422 Unprocessable Entity", many), &[]).await;
    assert!(matches!(much, Fault::TooMuch(_)), "{much}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, serving) = server(response("200 OK", GOOD)).await;
    let head =
        format!("HTTP/1.1 307 Go\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let refused = fault(head.into_bytes(), &[]).await;
    assert_eq!(refused, Fault::Refused(307, "Temporary Redirect".into()));
    assert!(!serving.is_finished());
    serving.abort();
}

#[tokio::test]
async fn what_breaks_off_or_makes_no_sense_is_no_answer() {
    let mut half = response("200 OK", GOOD);
    half.truncate(200);
    for broken in [
        half,
        b"HTTP/1.1 200".to_vec(),
        vec![],
        b"SSH-2.0-x\r\n".to_vec(),
    ] {
        let fault = fault(broken, &[]).await;
        assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
    }
    let page = fault(response("200 OK", "<html>"), &[]).await;
    assert!(matches!(page, Fault::Malformed(_)), "{page}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let error = asked(nobody, &[]).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flags = ["--prometheus-timeout", "50ms"];
    let error = asked(listener.local_addr().unwrap(), &flags)
        .await
        .unwrap_err();
    assert_eq!(error.fault, Fault::Timeout(Duration::from_millis(50)));
    // It may also begin, and then hang.
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec();
    let (address, serving) = server_that_stays(head).await;
    let error = asked(address, &flags).await.unwrap_err();
    assert_eq!(error.fault, Fault::Timeout(Duration::from_millis(50)));
    serving.abort();
}

async fn server_that_stays(answer: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        stream.write_all(&answer).await.unwrap();
        std::future::pending::<()>().await;
    });
    (address, serving)
}

#[tokio::test]
async fn an_endless_answer_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b' '; 1 << 20];
        let mut sent = 0;
        while stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let error = asked(address, &[]).await.unwrap_err();
    assert!(matches!(error.fault, Fault::TooMuch(_)), "{error}");
    // What was on its way is some more.
    assert!(serving.await.unwrap() < 2 * LARGEST_ANSWER);
}

/// A certificate that is its own root, and its key.
fn certificate(folder: &Path, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let write = |file: &str, text: String| {
        let path = folder.join(file);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = write(&format!("{name}.pem"), made.cert.pem());
    (cert, write("key.pem", made.signing_key.serialize_pem()))
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_given_root() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path(), "localhost");
    let tls = mesh_runtime::tls::ServerTls::load(&cert, &key).unwrap();
    let (other, _) = certificate(folder.path(), "other");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tls.acceptor().accept(stream).await else {
                continue;
            };
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"POST "));
            stream.write_all(&response("200 OK", GOOD)).await.unwrap();
        }
    });
    let ask = async |root: &str| {
        let url = format!("https://localhost:{port}");
        let args = args(&["--prometheus", &url, "--prometheus-ca", root]).unwrap();
        let prometheus = Prometheus::new(&args).unwrap().unwrap();
        prometheus.ask("up == 1", at()).await
    };
    assert_eq!(ask(&cert).await.unwrap().rows.len(), 2);
    let error = ask(&other).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable(_)), "{error}");
    serving.abort();
    let none = folder.path().join("none").display().to_string();
    let flags = ["--prometheus", "https://x", "--prometheus-ca", &none];
    let error = Prometheus::new(&args(&flags).unwrap()).unwrap_err();
    assert!(error.to_string().contains("--prometheus-ca"), "{error}");
}
