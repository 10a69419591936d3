//! Looks at files again and again, and says when their content changed.
//!
//! By content, not by inotify: a mounted Secret changes by swapping a symbolic link two folders up.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{Error, read};

/// Calls `apply` with the contents of `paths` whenever they differ from the last ones looked at, `first` to begin with.
/// An error of it is logged, once per content: the caller keeps what it had. Ends when the handle is dropped.
///
/// Needs a Tokio runtime.
pub(super) fn follow<F>(
    paths: Vec<PathBuf>,
    first: Vec<Vec<u8>>,
    every: Duration,
    mut apply: F,
) -> AbortOnDropHandle<()>
where
    F: FnMut(&[Vec<u8>]) -> Result<(), Error> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut seen = Ok(first);
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = look(paths.clone()).await;
            if now == seen {
                continue;
            }
            let result = match &now {
                Ok(contents) => apply(contents).map_err(|error| error.to_string()),
                Err(error) => Err(error.clone()),
            };
            match result {
                Ok(()) => info!(files = ?paths, "certificates changed: the new ones are in use"),
                Err(error) => {
                    warn!(%error, "certificates changed and are unusable: the old ones stay");
                }
            }
            seen = now;
        }
    }))
}

async fn look(paths: Vec<PathBuf>) -> Result<Vec<Vec<u8>>, String> {
    let read_all = move || {
        paths
            .iter()
            .map(|path| read(path))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())
    };
    tokio::task::spawn_blocking(read_all)
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}
