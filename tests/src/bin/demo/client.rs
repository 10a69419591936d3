//! The application in a pod: calls from inside its network namespace, and takes the time.

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::future::Future;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// A call that takes longer has failed. Envoy holds a first call for five seconds at the most.
const LIMIT: Duration = Duration::from_secs(20);

type Work = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce() -> Work + Send>;

/// A thread of its own in the namespace, since a namespace belongs to a thread. It ends when the client is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    jobs: mpsc::Sender<Job>,
}

/// What came back, and how long it took from before connecting until all of it was there.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The body, or what the server said first.
    pub(crate) text: String,
    /// The whole call.
    pub(crate) took: Duration,
}

impl Client {
    /// Starts the thread and moves it into the namespace.
    pub(crate) fn enter(namespace: &Path) -> Result<Self> {
        let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
        let (jobs, mut queue) = mpsc::channel::<Job>(16);
        let (entered, answer) = std::sync::mpsc::channel();
        let body = move || {
            let enter = || -> Result<tokio::runtime::Runtime> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?)
            };
            let runtime = match enter() {
                Ok(runtime) => runtime,
                Err(error) => return entered.send(Err(error)).unwrap_or_default(),
            };
            if entered.send(Ok(())).is_err() {
                return;
            }
            tokio::task::LocalSet::new().block_on(&runtime, async {
                while let Some(job) = queue.recv().await {
                    tokio::task::spawn_local(job());
                }
            });
        };
        std::thread::Builder::new()
            .name("pod".to_owned())
            .spawn(body)?;
        answer.recv().context("the pod's thread died")??;
        Ok(Self { jobs })
    }

    /// GETs a path from `address`, for `host`.
    ///
    /// # Errors
    /// When the connection breaks, it takes too long, or the status is not 200.
    pub(crate) async fn http(
        &self,
        address: SocketAddrV4,
        host: &str,
        path: &str,
    ) -> Result<Reply> {
        let (host, path) = (host.to_owned(), path.to_owned());
        let what = format!("GET http://{host}{path} at {address}");
        self.run(move || get(address, host, path))
            .await
            .context(what)
    }

    /// Connects to `address`, waits for the server to speak, sends a line and waits for its echo.
    ///
    /// # Errors
    /// When the connection breaks, it takes too long, or the echo is another.
    pub(crate) async fn tcp(&self, address: SocketAddrV4) -> Result<Reply> {
        self.run(move || greet(address))
            .await
            .with_context(|| format!("TCP to {address}"))
    }

    async fn run<F>(&self, call: impl FnOnce() -> F + Send + 'static) -> Result<Reply>
    where
        F: Future<Output = Result<String>> + 'static,
    {
        let (send, answer) = oneshot::channel();
        let job = move || -> Work {
            Box::pin(async move {
                let start = Instant::now();
                let text = tokio::time::timeout(LIMIT, call()).await;
                let text = text.unwrap_or_else(|_| Err(anyhow!("no answer within {LIMIT:?}")));
                // Whoever asked may have given up.
                let _ = send.send(text.map(|text| Reply {
                    text,
                    took: start.elapsed(),
                }));
            })
        };
        self.jobs
            .send(Box::new(job))
            .await
            .map_err(|_| anyhow!("the pod's thread is gone"))?;
        answer.await.context("the pod's thread is gone")?
    }
}

async fn get(address: SocketAddrV4, host: String, path: String) -> Result<String> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::task::spawn_local(connection);
    let request = hyper::Request::get(path).header(hyper::header::HOST, host);
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    ensure!(status == hyper::StatusCode::OK, "status {status}: {text}");
    Ok(text)
}

async fn greet(address: SocketAddrV4) -> Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.get_ref().set_nodelay(true)?;
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await?;
    ensure!(
        greeting.ends_with('\n'),
        "closed before it spoke ({greeting:?})"
    );
    stream.write_all(b"hello\n").await?;
    let mut echo = String::new();
    stream.read_line(&mut echo).await?;
    ensure!(echo == "hello\n", "echoed {echo:?}");
    Ok(greeting.trim_end().to_owned())
}
