//! Tunnels, as the caller's Envoy opens them and our own sidecar wraps them.

mod asked;
mod bytes;
mod ends;
mod http;
mod refused;

use std::net::SocketAddr;
use std::time::Duration;

use ::bytes::Bytes;
use ::http::{Request, StatusCode};
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

use crate::support::{Raw, Server, soon};

pub(crate) const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/client";

/// The head of the outer tunnel.
fn outer(caller: &str) -> String {
    format!(
        "CONNECT lazymesh.tunnel:1 HTTP/1.1\r\nhost: lazymesh.tunnel:1\r\n\
         x-lazymesh-caller: {caller}\r\n\r\n"
    )
}

/// A connection in the outer tunnel.
async fn wrapped(proxy: SocketAddr, caller: &str) -> Raw {
    let mut raw = Raw(TcpStream::connect(proxy).await.unwrap());
    // As Envoy does.
    raw.0.set_nodelay(true).unwrap();
    raw.send(&outer(caller)).await;
    assert_eq!(raw.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    raw
}

/// The caller's Envoy: one HTTP/2 connection in the outer tunnel.
#[derive(Clone)]
pub(crate) struct Tunnels(SendRequest<Bytes>);

impl Tunnels {
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        Self::of(proxy, CALLER).await
    }

    async fn of(proxy: SocketAddr, caller: &str) -> Self {
        let raw = wrapped(proxy, caller).await;
        let mut http = client::Builder::new();
        http.initial_connection_window_size(16 << 20);
        let (send, connection) = soon(http.handshake(raw.0)).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    pub(crate) async fn open(&mut self, to: SocketAddr) -> Result<Tunnel, (StatusCode, String)> {
        self.to(&to.to_string()).await
    }

    async fn to(&mut self, authority: &str) -> Result<Tunnel, (StatusCode, String)> {
        let request = Request::connect(authority).header("x-lazymesh-pod", "client-1");
        soon(std::future::poll_fn(|cx| self.0.poll_ready(cx)))
            .await
            .unwrap();
        let (response, up) = self
            .0
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let (parts, down) = soon(response).await.unwrap().into_parts();
        let mut tunnel = Tunnel {
            up: Up(up),
            down: Down(down),
        };
        if parts.status == StatusCode::OK {
            return Ok(tunnel);
        }
        Err((parts.status, tunnel.down.text().await))
    }
}

/// The caller's end.
pub(crate) struct Tunnel {
    pub(crate) up: Up,
    pub(crate) down: Down,
}

pub(crate) struct Up(SendStream<Bytes>);
pub(crate) struct Down(RecvStream);

impl Up {
    pub(crate) async fn write(&mut self, mut data: &[u8]) -> Result<(), h2::Error> {
        while !data.is_empty() {
            self.0.reserve_capacity(data.len());
            if self.0.capacity() == 0 {
                let room = std::future::poll_fn(|cx| self.0.poll_capacity(cx)).await;
                room.unwrap_or_else(|| Err(h2::Reason::STREAM_CLOSED.into()))?;
            }
            let (now, later) = data.split_at(data.len().min(self.0.capacity()));
            self.0.send_data(Bytes::copy_from_slice(now), false)?;
            data = later;
        }
        Ok(())
    }

    pub(crate) fn end(&mut self) {
        self.0.send_data(Bytes::new(), true).unwrap();
    }

    fn reset(&mut self) {
        self.0.send_reset(h2::Reason::CANCEL);
    }
}

impl Down {
    /// What comes next; empty at the end.
    async fn read(&mut self) -> Result<Bytes, h2::Error> {
        loop {
            let Some(data) = soon(self.0.data()).await.transpose()? else {
                return Ok(Bytes::new());
            };
            self.0.flow_control().release_capacity(data.len())?;
            if !data.is_empty() {
                return Ok(data);
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> String {
        let mut read = Vec::new();
        while read.len() < length {
            let data = self.read().await.unwrap();
            assert!(!data.is_empty(), "it ended after {read:?}");
            read.extend(data);
        }
        assert_eq!(read.len(), length, "{}", String::from_utf8_lossy(&read));
        String::from_utf8(read).unwrap()
    }

    /// How much comes until the end.
    pub(crate) async fn drained(&mut self) -> Result<usize, h2::Error> {
        let mut count = 0;
        loop {
            match self.read().await?.len() {
                0 => return Ok(count),
                more => count += more,
            }
        }
    }

    /// All of it, as text.
    async fn text(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            match self.read().await.unwrap() {
                end if end.is_empty() => return String::from_utf8(text).unwrap(),
                more => text.extend(more),
            }
        }
    }

    /// The reason with which it is broken.
    async fn broken(&mut self) -> h2::Reason {
        let error = self.drained().await.expect_err("it is broken, not ended");
        error.reason().expect("by a reset")
    }
}

impl Tunnel {
    /// As a socket.
    fn socket(self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (mut read, mut write) = tokio::io::split(far);
        let Self { mut up, mut down } = self;
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            loop {
                match read.read(&mut buffer).await.unwrap() {
                    0 => return up.end(),
                    count if up.write(&buffer[..count]).await.is_err() => return,
                    _ => {}
                }
            }
        });
        tokio::spawn(async move {
            while let Some(Ok(data)) = down.0.data().await {
                down.0.flow_control().release_capacity(data.len()).unwrap();
                if write.write_all(&data).await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        });
        near
    }
}

/// Says back what it hears, and closes when that ends.
async fn echo() -> Server {
    Server::raw(|raw, _| async move {
        let (mut read, mut write) = raw.0.into_split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// Longer than the proxy waits for HTTP to show itself.
const A_WHILE: Duration = Duration::from_millis(400);
