//! How a process ends: it says that it will, stops taking new work, gives what is under way a grace period, then ends.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
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
    delay: Duration,
    leaving: CancellationToken,
    started: CancellationToken,
    started_at: OnceLock<Instant>,
    ended: CancellationToken,
}

impl Drain {
    /// A drain that leaves `grace` between its start and its end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self::delayed(Duration::ZERO, grace)
    }

    /// The same, that upon a signal leaves `delay` before its start: work still comes from whoever has not heard yet that
    /// the process is not ready any more.
    #[must_use]
    pub fn delayed(delay: Duration, grace: Duration) -> Self {
        let inner = Inner {
            grace,
            delay,
            leaving: CancellationToken::new(),
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
        self.leave();
        self.inner.started_at.get_or_init(Instant::now);
        self.inner.started.cancel();
    }

    /// Says that the process will end: it is not ready any more, and takes what still comes.
    pub fn leave(&self) {
        self.inner.leaving.cancel();
    }

    /// Whether the process will end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.inner.leaving.is_cancelled()
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

    /// Installs handlers for SIGTERM and SIGINT. At the first the future says that the process will end, and starts the
    /// drain after the delay, if there is one; at the second it ends the drain.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        Ok(async move {
            let name = next(&mut term, &mut interrupt).await;
            let (delay, grace) = (drain.inner.delay, drain.inner.grace);
            info!(signal = name, ?delay, ?grace, "draining");
            let second = drain.begin(next(&mut term, &mut interrupt)).await;
            let name = match second {
                Some(name) => name,
                None => next(&mut term, &mut interrupt).await,
            };
            warn!(signal = name, "second signal: ending at once");
            drain.end_now();
            Ok(())
        })
    }

    /// Says that the process will end, and starts the drain after the delay; at once, should `second` come, which is given.
    async fn begin(&self, second: impl Future<Output = &'static str>) -> Option<&'static str> {
        self.leave();
        let mut came = None;
        if !self.inner.delay.is_zero() {
            tokio::select! {
                () = sleep(self.inner.delay) => {}
                name = second => came = Some(name),
            }
        }
        self.start();
        came
    }
}

async fn next(term: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
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
    async fn it_is_said_before_it_starts() {
        let drain = Drain::delayed(Duration::from_secs(5), Duration::from_secs(10));
        let begin = Instant::now();
        let watching = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert!(drain.is_leaving() && !drain.is_draining());
            drain.started().await;
            assert_eq!(begin.elapsed().as_secs(), 5);
            drain.ended().await;
            assert_eq!(begin.elapsed().as_secs(), 15);
        };
        let (second, ()) = tokio::join!(drain.begin(std::future::pending()), watching);
        assert_eq!(second, None);
        // A second signal is not kept waiting.
        let drain = Drain::delayed(Duration::from_secs(5), Duration::from_secs(10));
        let second = drain.begin(std::future::ready("SIGTERM")).await;
        assert!(second == Some("SIGTERM") && drain.is_draining());
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
