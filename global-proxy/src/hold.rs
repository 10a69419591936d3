//! A request that is held until it is known what becomes of it: its body is read meanwhile, the controller heard, and
//! time given to the caller's Envoy.

use std::time::Duration;

use dependency_graph::fallback::Policy;
use tokio::time::{sleep, timeout};

use crate::access_log::Record;
use crate::decide::{self, Answer, Situation, Step, Why};
use crate::graph::Ticket;
use crate::incoming::Incoming;
use crate::kept::Kept;
use crate::redirect::Mark;
use crate::refuse::Refusal;
use crate::shape::{BodySeen, Shape};
use crate::worker::Worker;

/// What becomes of a request.
pub(crate) enum Decided {
    Relay(Why),
    Redirect(Mark),
    Refuse(Refusal),
}

/// What is waited for, and for how long at the most.
pub(crate) enum Wait {
    Body(Duration),
    Answer(Duration),
    Time(Duration),
}

/// What is looked at for a decision.
pub(crate) struct Held<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) incoming: &'a Incoming,
    pub(crate) shape: &'a Shape,
    /// As the watch has it.
    pub(crate) policy: Option<Policy>,
    pub(crate) sayable: bool,
    pub(crate) record: &'a Record,
    /// None without a controller: then nothing will ever be heard.
    pub(crate) ticket: Option<&'a mut Ticket>,
    pub(crate) body: &'a mut Kept,
}

impl Held<'_> {
    /// What becomes of it, or what to wait for first.
    pub(crate) fn step(&mut self) -> Result<Decided, Wait> {
        let settings = &self.worker.settings.decide;
        let (answer, controller_up, policy, serves) = match &mut self.ticket {
            Some(ticket) => {
                let (answer, up) = ticket.look();
                // What comes with the answer is of this moment.
                let policy = ticket.policy().or(self.policy);
                (
                    answer,
                    up,
                    policy,
                    ticket.serves(self.incoming.original.ip()),
                )
            }
            None => (Answer::Unheard, false, self.policy, true),
        };
        // What is relayed as it flows is not looked at any closer.
        let flows = matches!(policy, None | Some(Policy::RelayOnly));
        let body = if flows && answer != Answer::UnknownName {
            BodySeen::Open { bytes: 0 }
        } else {
            self.body.seen(settings.body)
        };
        let now = Situation {
            incoming: self.incoming,
            shape: self.shape,
            body,
            policy,
            answer,
            // Without a controller there is nothing to wait for.
            waited: match self.ticket {
                Some(_) => self.record.elapsed(),
                None => Duration::MAX,
            },
            controller_up,
            serves,
            sayable: self.sayable,
        };
        match decide::step(&now, settings) {
            Step::Relay(why) => Ok(Decided::Relay(why)),
            Step::Redirect { tries } => Ok(Decided::Redirect(Mark::Try(tries))),
            Step::Plain => Ok(Decided::Redirect(Mark::Plain)),
            Step::Refuse(refusal) => Ok(Decided::Refuse(refusal)),
            Step::ReadBody(at_most) => Err(Wait::Body(at_most)),
            Step::AwaitAnswer(at_most) => Err(Wait::Answer(at_most)),
            Step::Pause(time) => Err(Wait::Time(time)),
        }
    }

    /// Waits, and again, until it is decided.
    ///
    /// # Errors
    /// When the body breaks off.
    pub(crate) async fn until_decided(mut self, mut wait: Wait) -> Result<Decided, Refusal> {
        loop {
            match wait {
                Wait::Body(at_most) => self.read(at_most).await?,
                Wait::Answer(at_most) => self.hear(at_most).await,
                Wait::Time(time) => sleep(time).await,
            }
            match self.step() {
                Ok(decided) => {
                    self.record.held();
                    return Ok(decided);
                }
                Err(next) => wait = next,
            }
        }
    }

    async fn read(&mut self, at_most: Duration) -> Result<(), Refusal> {
        let most = self.worker.settings.decide.body;
        let reading = self.body.read(most, &self.worker.room);
        match timeout(at_most, reading).await {
            Ok(Err(_)) => Err(Refusal::Malformed("its body broke off")),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn hear(&mut self, at_most: Duration) {
        match &mut self.ticket {
            Some(ticket) => {
                // Over or not: it is looked at again.
                let _ = timeout(at_most, ticket.changed()).await;
            }
            None => sleep(at_most).await,
        }
    }
}
