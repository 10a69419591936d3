//! Holds a request's body back until the server wants it: `Expect: 100-continue`, RFC 9110 10.1.1.
//!
//! The caller's body is first polled when the gate opens, and that is when hyper writes `100 Continue` to the caller.
//! So the caller sends nothing that the server has not asked for, unless the server says nothing at all.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::{Sleep, sleep};

/// How long a server may say nothing before the body is sent all the same, as RFC 9110 advises clients to do.
const PATIENCE: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const SHUT: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    waker: AtomicWaker,
}

/// Opens or shuts the gate; the first word counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latch(Arc<Shared>);

impl Latch {
    /// The server wants the body.
    pub(crate) fn open(&self) {
        self.set(OPEN);
    }

    /// The server has answered: the body is not wanted any more.
    pub(crate) fn shut(&self) {
        self.set(SHUT);
    }

    fn set(&self, to: u8) {
        let state = &self.0.state;
        let _ = state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire);
        self.0.waker.wake();
    }

    /// The gate this opens.
    pub(crate) fn gate(&self) -> Gate {
        Gate {
            shared: self.0.clone(),
            patience: Box::pin(sleep(PATIENCE)),
        }
    }
}

/// Stands before a body.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// Ready once the body may be polled; never, once the gate is shut.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.waker.register(cx.waker());
        match self.shared.state.load(Ordering::Acquire) {
            OPEN => Poll::Ready(()),
            SHUT => Poll::Pending,
            _ => self.patience.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.shared.state).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{Instant, timeout};

    async fn opens(mut gate: Gate) {
        poll_fn(|cx| gate.poll_open(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn opens_when_told() {
        let latch = Latch::default();
        let begin = Instant::now();
        let opened = tokio::spawn(opens(latch.gate()));
        tokio::task::yield_now().await;
        latch.open();
        opened.await.unwrap();
        assert!(begin.elapsed() < PATIENCE);
        latch.shut();
        opens(latch.gate()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn opens_when_nothing_is_said() {
        let begin = Instant::now();
        opens(Latch::default().gate()).await;
        assert!(begin.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn stays_shut_after_an_answer() {
        let latch = Latch::default();
        latch.shut();
        latch.open();
        let waited = timeout(PATIENCE * 100, opens(latch.gate())).await;
        assert!(waited.is_err());
    }
}
