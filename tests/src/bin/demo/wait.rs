//! Waiting for a condition, with a deadline.

use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// Tries until there is a value. An error is "not yet", too: whoever starts does not answer at first.
///
/// # Errors
/// After `limit`, saying `what` was waited for and the last error.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = attempt().await;
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if start.elapsed() > limit {
            let late = || format!("waited {limit:?} for {what}");
            last.with_context(late)?;
            bail!(late());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
