//! The tasks a process is made of. None is detached: one that fails or panics ends the process, and says so.

use std::collections::HashMap;

use thiserror::Error;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{Instrument, debug, error, info_span, warn};

use crate::BoxError;
use crate::drain::Drain;

/// Why the process must end with a failure.
#[derive(Debug, Error)]
pub enum Error {
    /// A task returned an error.
    #[error("{name} failed: {source}")]
    Failed {
        /// The task.
        name: String,
        /// What it returned.
        source: BoxError,
    },
    /// A task panicked.
    #[error("{name} panicked")]
    Panicked {
        /// The task.
        name: String,
    },
    /// A task that should have gone on until the drain returned before it.
    #[error("{name} ended before the process was asked to")]
    EndedEarly {
        /// The task.
        name: String,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Serving,
    Background,
}

#[derive(Debug)]
struct Task {
    name: String,
    kind: Kind,
}

/// The running tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    drain: Drain,
    running: JoinSet<Result<(), BoxError>>,
    known: HashMap<Id, Task>,
}

impl Tasks {
    /// No tasks yet. `drain` is started when a task fails.
    #[must_use]
    pub fn new(drain: Drain) -> Self {
        Self {
            drain,
            running: JoinSet::new(),
            known: HashMap::new(),
        }
    }

    /// Runs a task that goes on until the drain, and which the process waits for at its end.
    pub fn spawn<F, E>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.add(name.into(), Kind::Serving, task);
    }

    /// Runs a task that the process does not wait for at its end, and which may return before it: the admin port, the
    /// signals. Its failure ends the process all the same.
    pub fn spawn_background<F, E>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.add(name.into(), Kind::Background, task);
    }

    fn add<F, E>(&mut self, name: String, kind: Kind, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let span = info_span!("task", name);
        let handle = self
            .running
            .spawn(async move { task.await.map_err(Into::into) }.instrument(span));
        self.known.insert(handle.id(), Task { name, kind });
    }

    /// Waits for the process to end: for the drain and every serving task, at most until the drain's end.
    ///
    /// # Errors
    /// The first failure of a task. It starts the drain, so that the others still end in good order.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        while self.known.values().any(|task| task.kind == Kind::Serving) {
            let joined = tokio::select! {
                joined = self.running.join_next_with_id() => joined,
                () = self.drain.ended() => {
                    warn!(unfinished = ?self.names(), "grace period over");
                    break;
                }
            };
            let Some(joined) = joined else { break };
            if let Err(failure) = self.judge(joined) {
                error!(error = %failure, "ending the process");
                self.drain.start();
                outcome = outcome.and(Err(failure));
            }
        }
        self.running.shutdown().await;
        outcome
    }

    fn judge(
        &mut self,
        joined: Result<(Id, Result<(), BoxError>), JoinError>,
    ) -> Result<(), Error> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(Task { name, kind }) = self.known.remove(&id) else {
            return Ok(());
        };
        match joined {
            Ok((_, Ok(()))) if kind == Kind::Serving && !self.drain.is_draining() => {
                Err(Error::EndedEarly { name })
            }
            Ok((_, Ok(()))) => {
                debug!(name, "task ended");
                Ok(())
            }
            Ok((_, Err(source))) => Err(Error::Failed { name, source }),
            Err(_) => Err(Error::Panicked { name }),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.known
            .values()
            .filter(|task| task.kind == Kind::Serving)
            .map(|task| task.name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;

    fn tasks() -> (Drain, Tasks) {
        let drain = Drain::new(Duration::from_secs(30));
        (drain.clone(), Tasks::new(drain))
    }

    fn until_drain(drain: &Drain) -> impl Future<Output = io::Result<()>> + use<> {
        let drain = drain.clone();
        async move {
            drain.started().await;
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_process_ends_well() {
        let (drain, mut tasks) = tasks();
        tasks.spawn("server", until_drain(&drain));
        tasks.spawn_background("admin", std::future::pending::<io::Result<()>>());
        drain.start();
        tasks.run().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_drains_the_others_and_is_returned() {
        let (drain, mut tasks) = tasks();
        tasks.spawn("server", until_drain(&drain));
        tasks.spawn("store", async { Err(io::Error::other("disk gone")) });
        let error = tasks.run().await.unwrap_err();
        assert_eq!(error.to_string(), "store failed: disk gone");
        assert!(drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_background_task_ends_the_process() {
        let (drain, mut tasks) = tasks();
        tasks.spawn("server", until_drain(&drain));
        tasks.spawn_background("admin", async { Err(io::Error::other("port gone")) });
        assert!(matches!(tasks.run().await, Err(Error::Failed { name, .. }) if name == "admin"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure() {
        let (_drain, mut tasks) = tasks();
        tasks.spawn("watch", async {
            assert!(
                Instant::now() < Instant::now() - Duration::from_secs(1),
                "on purpose"
            );
            io::Result::Ok(())
        });
        assert!(matches!(tasks.run().await, Err(Error::Panicked { name }) if name == "watch"));
    }

    #[tokio::test(start_paused = true)]
    async fn returning_before_the_drain_is_a_failure() {
        let (_drain, mut tasks) = tasks();
        tasks.spawn("server", async { io::Result::Ok(()) });
        assert!(matches!(tasks.run().await, Err(Error::EndedEarly { name }) if name == "server"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_drain_is_cut_off() {
        let (drain, mut tasks) = tasks();
        tasks.spawn("stuck", std::future::pending::<io::Result<()>>());
        let begin = Instant::now();
        drain.start();
        tasks.run().await.unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(30));
    }

    use tokio::time::Instant;
}
