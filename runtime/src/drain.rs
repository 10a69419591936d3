//! How a process ends: it stops taking new work, gives what is under way a grace period, then ends.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Says when to stop taking work ([`Drain::started`]) and when to let go of it ([`Drain::ended`]). Clones share it.
#[derive(Clone, Debug)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    grace: Duration,
    started: CancellationToken,
    started_at: OnceLock<Instant>,
    ended: CancellationToken,
}

impl Drain {
    /// A drain that leaves `grace` between its start and its end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        let inner = Inner {
            grace,
            started: CancellationToken::new(),
            started_at: OnceLock::new(),
            ended: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Starts draining; the grace period counts from the first call.
    pub fn start(&self) {
        self.inner.started_at.get_or_init(Instant::now);
        self.inner.started.cancel();
    }

    /// Ends without waiting for the grace period.
    pub fn end_now(&self) {
        self.start();
        self.inner.ended.cancel();
    }

    /// Whether draining has started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.started.is_cancelled()
    }

    /// Returns once draining has started.
    pub async fn started(&self) {
        self.inner.started.cancelled().await;
    }

    /// Returns once the grace period is over, or when [`Drain::end_now`] was called.
    pub async fn ended(&self) {
        let grace_over = async {
            self.inner.started.cancelled().await;
            let from = *self.inner.started_at.get_or_init(Instant::now);
            sleep_until(from + self.inner.grace).await;
        };
        tokio::select! {
            () = self.inner.ended.cancelled() => {}
            () = grace_over => {}
        }
    }

    /// Installs handlers for SIGTERM and SIGINT. The future starts the drain at the first and ends it at the second.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        Ok(async move {
            let mut next = async || {
                tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let name = next().await;
            info!(signal = name, grace = ?drain.inner.grace, "draining");
            drain.start();
            let name = next().await;
            warn!(signal = name, "second signal: ending at once");
            drain.end_now();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_a_grace_period_after_the_first_start() {
        let drain = Drain::new(Duration::from_secs(10));
        let begin = Instant::now();
        drain.start();
        tokio::time::advance(Duration::from_secs(4)).await;
        drain.start();
        drain.started().await;
        drain.ended().await;
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took < Duration::from_secs(11),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn never_ends_before_it_started() {
        let drain = Drain::new(Duration::ZERO);
        let waited = tokio::time::timeout(Duration::from_secs(3600), drain.ended()).await;
        assert!(waited.is_err());
        assert!(!drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn end_now_cuts_the_grace_period() {
        let drain = Drain::new(Duration::from_secs(3600));
        let begin = Instant::now();
        drain.end_now();
        drain.ended().await;
        assert!(drain.is_draining());
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}
