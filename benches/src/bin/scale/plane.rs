//! An istiod-shaped control plane that costs little per stream: resources are encoded once, and a stream keeps the names
//! it has asked for and nothing else.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::Request;
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use xds_shim::ads::DeltaRequest;
use xds_shim::node::Proxy;

use crate::encoded::{Encoded, Response};
use crate::grpc::{self, Messages};
use crate::rules::{Answer, Push, Session};

/// Connections that may wait to be accepted: the kernel bounds it further.
const BACKLOG: u32 = 16_384;
/// What is more than so many bytes counts as a push under way.
const LARGE: usize = 64 << 10;

/// A running control plane; dropping it ends all of it.
#[derive(Debug)]
pub(crate) struct Plane {
    shared: Arc<Shared>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Debug)]
struct Shared {
    encoded: Arc<RwLock<Encoded>>,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    last_stream: AtomicU64,
    /// Of the last push.
    version: AtomicU64,
    /// As istiod's PILOT_PUSH_THROTTLE: how many large responses are under way at once.
    throttle: Semaphore,
    /// How many streams have acknowledged the last of everything.
    settled: watch::Sender<usize>,
    sent: AtomicU64,
    refusal: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Stream {
    namespace: String,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    session: Session,
    outbox: mpsc::UnboundedSender<Response>,
    settled: bool,
}

impl Plane {
    /// Starts one on loopback, in plain text.
    ///
    /// # Errors
    /// When nothing can be listened on.
    pub(crate) fn start(encoded: Arc<RwLock<Encoded>>, pushes_at_once: usize) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG).context("the control plane's port")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            encoded,
            streams: Mutex::default(),
            last_stream: AtomicU64::new(0),
            version: AtomicU64::new(1),
            throttle: Semaphore::new(pushes_at_once),
            settled: watch::Sender::new(0),
            sent: AtomicU64::new(0),
            refusal: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self {
            shared,
            address,
            accepting,
        })
    }

    /// Pushes to all streams. When it returns, those that are sent something are not settled any longer.
    pub(crate) fn push(&self, push: &Push) {
        let version = self.shared.version.fetch_add(1, Ordering::Relaxed) + 1;
        let streams: Vec<_> = self.shared.streams.lock().values().cloned().collect();
        for stream in streams {
            let decide = |session: &mut Session| session.on_push(push, version);
            self.shared.act(&stream, version, decide);
        }
    }

    /// Waits until so many streams have everything, and have acknowledged it.
    ///
    /// # Errors
    /// When a stream refused something.
    pub(crate) async fn settled(&self, streams: usize) -> Result<()> {
        let mut settled = self.shared.settled.subscribe();
        settled.wait_for(|count| *count >= streams).await?;
        self.check()
    }

    /// Fails when a stream refused something.
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.shared.refusal.lock() {
            Some(refusal) => bail!("refused by the shim: {refusal}"),
            None => Ok(()),
        }
    }

    /// Bytes of messages sent so far, without framing.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Has a stream's session decide, sends what it decided, and counts the stream.
    fn act(&self, stream: &Stream, version: u64, decide: impl FnOnce(&mut Session) -> Vec<Answer>) {
        let encoded = self.encoded.read();
        let mut books = stream.books.lock();
        for answer in decide(&mut books.session) {
            let response = encoded.response(&answer, &stream.namespace, version);
            // A stream that has ended needs none.
            let _ = books.outbox.send(response);
        }
        let now = books.session.is_settled();
        let before = std::mem::replace(&mut books.settled, now);
        match (before, now) {
            (false, true) => self.settled.send_modify(|count| *count += 1),
            (true, false) => self.settled.send_modify(|count| *count -= 1),
            _ => {}
        }
    }

    fn request(&self, stream: &Stream, message: &Bytes) -> Result<()> {
        let request = DeltaRequest::decode(message)?;
        let version = self.version.load(Ordering::Relaxed);
        let decide = |session: &mut Session| match session.on_request(&request, version) {
            Ok(answers) => answers,
            Err(refusal) => {
                *self.refusal.lock() = Some(format!("{}: {refusal}", request.type_url));
                Vec::new()
            }
        };
        self.act(stream, version, decide);
        Ok(())
    }

    fn forget(&self, id: u64, stream: &Stream) {
        self.streams.lock().remove(&id);
        if std::mem::take(&mut stream.books.lock().settled) {
            self.settled.send_modify(|count| *count -= 1);
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends all connections when it goes.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, Arc::clone(&shared)));
                }
                Err(error) => eprintln!("bench-scale: the control plane cannot accept: {error}"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection and its streams, to the end. What breaks it is whose connection it is to notice.
async fn connection(socket: TcpStream, shared: Arc<Shared>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut builder = h2::server::Builder::new();
    builder.max_send_buffer_size(grpc::SEND_BUFFER);
    let mut connection = builder.handshake::<_, Bytes>(socket).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(serve(request, respond, Arc::clone(&shared)));
    }
    Ok(())
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Result<()> {
    let head = http::Response::builder().header("content-type", "application/grpc");
    let to = respond.send_response(head.body(())?, false)?;
    let mut messages = Messages::from(request.into_body());
    let Some(first) = messages.next().await? else {
        return Ok(());
    };
    let node = DeltaRequest::decode(&first)?.node.unwrap_or_default();
    let (outbox, responses) = mpsc::unbounded_channel();
    let stream = Arc::new(Stream {
        namespace: Proxy::decode(&node).namespace.unwrap_or_default(),
        books: Mutex::new(Books {
            session: Session::default(),
            outbox,
            settled: false,
        }),
    });
    let id = shared.last_stream.fetch_add(1, Ordering::Relaxed);
    shared.streams.lock().insert(id, Arc::clone(&stream));
    let writer = tokio::spawn(write(to, responses, Arc::clone(&shared)));
    let end = read(&shared, &stream, first, &mut messages).await;
    shared.forget(id, &stream);
    writer.abort();
    end
}

async fn read(
    shared: &Shared,
    stream: &Stream,
    first: Bytes,
    messages: &mut Messages,
) -> Result<()> {
    shared.request(stream, &first)?;
    while let Some(message) = messages.next().await? {
        shared.request(stream, &message)?;
    }
    Ok(())
}

async fn write(
    mut to: SendStream<Bytes>,
    mut responses: mpsc::UnboundedReceiver<Response>,
    shared: Arc<Shared>,
) -> Result<()> {
    while let Some(response) = responses.recv().await {
        let bytes = response.bytes();
        let _under_way = match bytes >= LARGE {
            true => Some(shared.throttle.acquire().await?),
            false => None,
        };
        grpc::send(&mut to, response.pieces).await?;
        shared.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}
