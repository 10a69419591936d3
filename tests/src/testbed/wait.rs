//! Waiting for a condition with a deadline, in place of sleeping.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

/// Tries `attempt` until it succeeds or `limit` is over, at first every few milliseconds, then ten times a second.
///
/// # Errors
/// The last failure, with `what` was waited for and how long.
pub async fn until<T, F>(what: &str, limit: Duration, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

/// As [`until`], for a condition that has nothing to say but yes or no.
///
/// # Errors
/// When it did not come true in time.
pub async fn until_true<F>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    until(what, limit, || {
        let answer = condition();
        async move {
            if answer.await? {
                Ok(())
            } else {
                Err(anyhow!("not so"))
            }
        }
    })
    .await
}
