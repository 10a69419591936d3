//! The load: so many connections with so many requests under way on each, a new one as soon as one is answered.
//! Every answer's status and length are checked, the first ones of each connection byte by byte.

mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::case::{Case, Protocol};

/// No answer takes longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    started: Cell<u64>,
    limit: Cell<u64>,
    answered: Cell<u64>,
    half: Notify,
    recording: Cell<bool>,
    latencies: RefCell<Vec<u32>>,
}

impl Tally {
    /// Whether there is another request to be sent.
    fn start(&self) -> bool {
        let more = self.started.get() < self.limit.get();
        self.started.set(self.started.get() + u64::from(more));
        more
    }

    fn answered(&self, begin: Instant) {
        self.answered.set(self.answered.get() + 1);
        if self.answered.get() == self.limit.get() / 2 {
            self.half.notify_one();
        }
        if self.recording.get() {
            let nanos = u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX);
            self.latencies.borrow_mut().push(nanos);
        }
    }
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    connections: JoinSet<Result<()>>,
    tally: Rc<Tally>,
}

/// What a load saw while it was recorded.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    /// Sorted, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
}

impl Load {
    /// Starts it: through `relay` to `origin`, until `limit` requests are sent.
    pub(crate) fn start(case: Case, relay: SocketAddr, origin: SocketAddr, limit: u64) -> Self {
        let tally = Rc::new(Tally::default());
        tally.limit.set(limit);
        let (connections, streams) = case.protocol.concurrency();
        let mut set = JoinSet::new();
        for _ in 0..connections {
            let tally = tally.clone();
            set.spawn_local(async move {
                let stream = TcpStream::connect(relay).await.context("connect")?;
                stream.set_nodelay(true)?;
                match case.protocol {
                    Protocol::Http1 => http1::run(stream, &case, origin, &tally).await,
                    Protocol::Http2 => http2::run(stream, &case, origin, &tally, streams).await,
                }
            });
        }
        Self {
            connections: set,
            tally,
        }
    }

    /// Lets it run for a while, and says how many were answered.
    ///
    /// # Errors
    /// When an answer was wrong, or there was none.
    pub(crate) async fn run_for(&mut self, time: Duration) -> Result<Seen> {
        let before = self.tally.answered.get();
        self.tally.recording.set(true);
        tokio::select! {
            () = sleep(time) => {}
            ended = self.all_ended() => {
                ended?;
                anyhow::bail!("all requests were sent too soon");
            }
        }
        self.tally.recording.set(false);
        let mut latencies = self.tally.latencies.take();
        latencies.sort_unstable();
        Ok(Seen {
            requests: self.tally.answered.get() - before,
            latencies,
        })
    }

    /// Waits until half of the requests are answered.
    ///
    /// # Errors
    /// When an answer was wrong, or there was none.
    pub(crate) async fn half(&mut self) -> Result<()> {
        let tally = self.tally.clone();
        tokio::select! {
            () = tally.half.notified() => Ok(()),
            ended = self.all_ended() => ended,
        }
    }

    /// Waits until all requests are answered, and says how many they were.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn all(mut self) -> Result<u64> {
        self.all_ended().await?;
        Ok(self.tally.answered.get())
    }

    /// Ends it: each connection when it has its last answer.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.tally.limit.set(0);
        let ended = timeout(PATIENCE, self.all_ended()).await;
        ended.context("an answer does not come")?
    }

    async fn all_ended(&mut self) -> Result<()> {
        while let Some(ended) = self.connections.join_next().await {
            ended.context("a connection's task")??;
        }
        Ok(())
    }
}
