//! Sends calls to the controller, and takes its answers.

use std::time::{Duration, Instant};

use dependency_graph::api::{CallsRequest, CallsResponse};
use graph_client::{Controller, Error, next_of};
use mesh_runtime::retry::Retry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Graph;

/// What comes within this time of a batch goes in the next one.
const GATHERING: Duration = Duration::from_millis(20);

/// When the next batch may go: at once, unless another has just gone.
fn due(last: Option<Instant>, now: Instant) -> Instant {
    last.map_or(now, |last| (last + GATHERING).max(now))
}

impl Graph {
    /// Sends calls, for ever.
    pub async fn send(&self, controller: &Controller) {
        let mut retry = Controller::retry();
        loop {
            let outcome = self.send_on_a_stream(controller, &mut retry).await;
            self.set_up(false);
            self.0.book.lock().rewind();
            controller.pause("calls", outcome, &mut retry).await;
        }
    }

    async fn send_on_a_stream(
        &self,
        controller: &Controller,
        retry: &mut Retry,
    ) -> Result<(), Error> {
        let mut client = controller.client().await?;
        let (batches, outgoing) = mpsc::channel(1);
        let request = controller.request(ReceiverStream::new(outgoing))?;
        let begins = client.calls(request);
        tokio::pin!(begins);
        let (mut answers, mut last) = (None, None);
        loop {
            let now = Instant::now();
            let due = self.0.book.lock().has_unsent().then(|| due(last, now));
            let (go, wait) = (due == Some(now), due.filter(|due| *due > now));
            let gathering = async {
                match wait {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Sending waits beside the others: the call itself, and so the reading of what is sent, only goes on while
            // it is polled.
            tokio::select! {
                room = batches.reserve(), if go => {
                    let Ok(room) = room else { return Ok(()) };
                    let Some(calls) = self.0.book.lock().batch() else { continue };
                    last = Some(Instant::now());
                    room.send(CallsRequest { calls });
                }
                () = self.0.news.notified() => {}
                () = gathering => {}
                // The answer's head may come only with the first batch.
                begun = &mut begins, if answers.is_none() => {
                    answers = Some(begun?.into_inner());
                    self.set_up(true);
                    retry.succeeded();
                }
                answer = next_of(&mut answers), if answers.is_some() => match answer? {
                    Some(answer) => self.take(&answer),
                    None => return Ok(()),
                },
            }
        }
    }

    fn set_up(&self, up: bool) {
        self.0.up.send_replace(up);
        self.0.metrics.controller_calls.set(up.into());
    }

    fn take(&self, response: &CallsResponse) {
        let now = Instant::now();
        let mut book = self.0.book.lock();
        for answer in &response.answers {
            if let Some(heard) = book.answered(answer, now) {
                self.0.metrics.answered(heard.state());
            }
        }
        self.count(&book);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_sends_at_once_and_a_busy_one_gathers() {
        let now = Instant::now();
        assert_eq!(due(None, now), now);
        assert_eq!(due(Some(now), now), now + GATHERING);
        let later = now + Duration::from_millis(5);
        assert_eq!(due(Some(now), later), now + GATHERING);
        let idle = now + Duration::from_secs(1);
        assert_eq!(due(Some(now), idle), idle);
    }
}
