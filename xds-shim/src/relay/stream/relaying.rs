//! What a stream does once it is open.

use super::{End, Flavor};
use crate::graph::Known;
use crate::metrics::type_label;
use crate::node::Proxy;
use crate::relay::{Shared, ads};
use crate::session::{Ask, Output, Session};
use crate::streams::Entry;
use crate::treatment;
use crate::wire;
use bytes::Bytes;
use dependency_graph::{Mode, Workload};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Status, Streaming};

/// Bytes that may wait for a side that does not take them, before the stream is ended.
const MOST_WAITING: usize = 256 << 20;

/// How long a proxy may take to hear why its stream ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An on-demand stream's own part.
pub(super) struct Lazy {
    session: Session,
    workload: Workload,
}

impl Lazy {
    pub(super) fn new(
        shared: &Shared,
        workload: &Workload,
        known: &mut watch::Receiver<Known>,
    ) -> Self {
        let services = Arc::clone(&known.borrow_and_update().services);
        let known = services.iter().cloned();
        let session = Session::new(shared.store.clone(), shared.on_demand.clone(), known)
            .expecting(shared.route_names.of(workload.namespace()));
        Self {
            session,
            workload: workload.clone(),
        }
    }
}

/// What a stream waits for.
enum Event {
    Room,
    IstiodTakesNoMore,
    FromProxy(Bytes),
    FromIstiod(Bytes),
    Known(Known),
    Tidy,
    End(End),
}

impl Event {
    fn of_istiod(message: Option<Result<Bytes, Status>>) -> Self {
        match message {
            Some(Ok(message)) => Self::FromIstiod(message),
            Some(Err(status)) => Self::End(End::new("istiod", status)),
            None => Self::End(End {
                by: "istiod",
                status: None,
            }),
        }
    }
}

pub(super) struct Relaying {
    pub(super) shared: Arc<Shared>,
    pub(super) proxy: Proxy,
    /// `None`: everything passes as it is.
    pub(super) lazy: Option<Lazy>,
    pub(super) known: Option<watch::Receiver<Known>>,
    pub(super) flavor: Flavor,
    pub(super) from_proxy: Streaming<Bytes>,
    pub(super) to_proxy: mpsc::Sender<Result<Bytes, Status>>,
    pub(super) from_istiod: BoxStream<'static, Result<Bytes, Status>>,
    pub(super) to_istiod: mpsc::Sender<Bytes>,
    pub(super) for_proxy: VecDeque<Bytes>,
    pub(super) for_istiod: VecDeque<Bytes>,
    /// What was asked for on demand and is not yet told to others.
    pub(super) asks: Vec<Ask>,
    pub(super) tidy: Interval,
    pub(super) listed: Entry,
    /// Whether `listed` may show old counts, or something is to be told. No count is of endpoints, which change most often.
    pub(super) unlisted: bool,
}

impl Relaying {
    pub(super) async fn run(mut self, first: Bytes) -> End {
        // The mode may have changed between the decision and the first look at what is followed.
        let known = self
            .known
            .as_mut()
            .map(|known| known.borrow_and_update().clone());
        let begun = match known {
            Some(known) => self
                .learned_elsewhere(&known)
                .and_then(|()| self.request(first)),
            None => self.request(first),
        };
        let end = match begun {
            Ok(()) => self.relay().await,
            Err(end) => end,
        };
        self.tell();
        if let Some(status) = end.status.clone() {
            // The proxy may be gone, or not reading: then it does not matter any more.
            let _ = tokio::time::timeout(LAST_WORD, self.to_proxy.send(Err(status))).await;
        }
        end
    }

    async fn relay(&mut self) -> End {
        loop {
            self.hand_on();
            if self.unlisted {
                // The connections' own tasks come first: a call may be held.
                tokio::task::yield_now().await;
                self.tell();
            }
            let event = self.next_event().await;
            let step = match event {
                Event::Room => Ok(()),
                Event::IstiodTakesNoMore => match self.from_istiod.next().now_or_never() {
                    Some(Some(Err(status))) => Err(End::new("istiod", status)),
                    _ => Err(End::new(
                        "istiod",
                        Status::unavailable("istiod ended the stream"),
                    )),
                },
                Event::FromProxy(message) => self.request(message),
                Event::FromIstiod(message) => {
                    let step = self.response(&message);
                    self.shared.buffers.give_back(message, Instant::now());
                    step
                }
                Event::Known(known) => self.learned_elsewhere(&known),
                Event::Tidy => {
                    self.put_away();
                    Ok(())
                }
                Event::End(end) => Err(end),
            };
            if let Err(end) = step.and_then(|()| self.check_waiting()) {
                return end;
            }
        }
    }

    /// Whatever comes first. Nothing is lost when another event wins: every branch only waits.
    async fn next_event(&mut self) -> Event {
        tokio::select! {
            room = self.to_proxy.reserve(), if !self.for_proxy.is_empty() => match room {
                Ok(_) => Event::Room,
                Err(_) => Event::End(End { by: "proxy", status: None }),
            },
            room = self.to_istiod.reserve(), if !self.for_istiod.is_empty() => match room {
                Ok(_) => Event::Room,
                Err(_) => Event::IstiodTakesNoMore,
            },
            message = self.from_proxy.message() => match message {
                Ok(Some(message)) => Event::FromProxy(message),
                Ok(None) => Event::End(End { by: "proxy", status: None }),
                Err(status) => Event::End(End::new("proxy", status)),
            },
            message = self.from_istiod.next(), if self.for_proxy.is_empty() => {
                Event::of_istiod(message)
            }
            known = changed(&mut self.known) => Event::Known(known),
            _ = self.tidy.tick(), if self.lazy.is_some() => Event::Tidy,
            () = self.to_proxy.closed() => Event::End(End { by: "proxy", status: None }),
            () = self.shared.drain.started() => {
                Event::End(End::new("drain", Status::unavailable("xds-shim is going away")))
            }
        }
    }

    /// Hands on at once what there is room for. What there is none for, [`Self::next_event`] waits for.
    ///
    /// The proxy's comes last: tokio runs the task that was woken last next, and another thread has
    /// to wake up for the one before. A held call waits for the proxy's.
    fn hand_on(&mut self) {
        hand_on(&mut self.for_istiod, &self.to_istiod, |m| m);
        hand_on(&mut self.for_proxy, &self.to_proxy, Ok);
    }

    fn request(&mut self, message: Bytes) -> Result<(), End> {
        match &mut self.lazy {
            Some(lazy) => {
                let began = Instant::now();
                let outputs = lazy.session.on_request(&message).map_err(End::from)?;
                self.trace("the proxy", 2, &message, began, &outputs);
                self.act(outputs);
            }
            None => {
                self.count_refusal(&message);
                self.for_istiod.push_back(message);
            }
        }
        Ok(())
    }

    fn response(&mut self, message: &Bytes) -> Result<(), End> {
        count(&self.shared.metrics.from_istiod, message);
        match &mut self.lazy {
            Some(lazy) => {
                let began = Instant::now();
                let outputs = lazy.session.on_response(message).map_err(End::from)?;
                self.trace("istiod", 4, message, began, &outputs);
                self.act(outputs);
            }
            None => {
                count(&self.shared.metrics.to_proxies, message);
                self.for_proxy.push_back(message.clone());
            }
        }
        Ok(())
    }

    /// What went through the session and how long it took there, for who looks for time.
    fn trace(
        &self,
        from: &str,
        type_field: u32,
        message: &Bytes,
        began: Instant,
        outputs: &[Output],
    ) {
        let to_proxy = outputs.iter().map(|output| match output {
            Output::ToProxy(message) => message.len(),
            _ => 0,
        });
        tracing::debug!(
            proxy = self.proxy.id,
            from,
            kind = type_label(wire::string(message, type_field).unwrap_or_default()),
            bytes = message.len(),
            bytes_to_proxy = to_proxy.sum::<usize>(),
            micros = began.elapsed().as_micros() as u64,
            "message"
        );
    }

    fn learned_elsewhere(&mut self, known: &Known) -> Result<(), End> {
        let Some(lazy) = &mut self.lazy else {
            return Ok(());
        };
        let mode = treatment::mode(known.modes, &self.proxy, true, self.shared.default_mode);
        if mode != Mode::OnDemand {
            // The proxy dials again and gets everything.
            return Err(End::new(
                "mode",
                Status::unavailable("no longer in mode on-demand"),
            ));
        }
        let outputs = lazy.session.admit(known.services.iter().cloned());
        self.act(outputs);
        Ok(())
    }

    fn put_away(&mut self) {
        self.shared.buffers.tidy(Instant::now());
        if let Some(lazy) = &mut self.lazy {
            let outputs = lazy.session.tidy(Instant::now());
            self.act(outputs);
        }
    }

    fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::ToProxy(message) => {
                    let label = count(&self.shared.metrics.to_proxies, &message);
                    self.unlisted |= label != type_label(crate::ads::EDS);
                    self.for_proxy.push_back(message);
                }
                Output::ToIstiod(message) => {
                    let type_url = wire::string(&message, 2).unwrap_or_default();
                    self.unlisted |= type_url != crate::ads::EDS;
                    self.for_istiod.push_back(message);
                }
                Output::Asked(ask) => {
                    self.asks.push(ask);
                    self.unlisted = true;
                }
                Output::Nack(type_url, why) => self.refused(type_url, &why),
            }
        }
    }

    /// Says what was learned, and shows the counts.
    fn tell(&mut self) {
        for ask in std::mem::take(&mut self.asks) {
            self.learned_here(&ask);
        }
        self.unlisted = false;
        if let Some(lazy) = &self.lazy {
            self.listed.show(lazy.session.summary());
        }
    }

    fn learned_here(&self, ask: &Ask) {
        let Some(lazy) = &self.lazy else { return };
        tracing::info!(proxy = self.proxy.id, service = %ask.service, now = ask.now, "asked for on demand");
        if ask.now {
            self.shared.metrics.asks.inc();
        }
        // What an earlier stream asked for is not news once the controller says what is known: it may have been forgotten since.
        if ask.now || !self.shared.graph.is_heard() {
            self.shared.graph.learned(&lazy.workload, &ask.service);
        }
        let Some(reporter) = &self.shared.reporter else {
            return;
        };
        match ask.dependency() {
            Ok(dependency) => {
                let seen = ask.now.then(SystemTime::now);
                reporter.add((lazy.workload.clone(), dependency), seen);
            }
            Err(error) => tracing::warn!(service = %ask.service, error, "not reported"),
        }
    }

    fn check_waiting(&self) -> Result<(), End> {
        let waiting = |queue: &VecDeque<Bytes>| queue.iter().map(Bytes::len).sum::<usize>();
        if waiting(&self.for_proxy).max(waiting(&self.for_istiod)) <= MOST_WAITING {
            return Ok(());
        }
        let text = "too much waits for a peer that does not read";
        Err(End::new("shim", Status::resource_exhausted(text)))
    }

    /// The proxy refused a response: counted, and said in the log.
    fn refused(&self, type_url: &str, why: &str) {
        let label = type_label(type_url);
        self.shared.metrics.nacks.with_label_values(&[label]).inc();
        tracing::warn!(
            proxy = self.proxy.id,
            type_url,
            why,
            "the proxy refused a response"
        );
    }

    /// A NACK that passes through: error_detail is field 7 of a delta request, 6 of the other, and
    /// type_url is 2 and 4.
    fn count_refusal(&self, message: &[u8]) {
        let (detail, type_url) = match self.flavor {
            Flavor::Delta => (7, 2),
            Flavor::StateOfTheWorld => (6, 4),
        };
        if let (Ok(Some(status)), Ok(type_url)) =
            (wire::last(message, detail), wire::string(message, type_url))
        {
            self.refused(type_url, &ads::status_message(status));
        }
    }
}

fn hand_on<T>(waiting: &mut VecDeque<Bytes>, to: &mpsc::Sender<T>, as_item: fn(Bytes) -> T) {
    while !waiting.is_empty()
        && let Ok(room) = to.try_reserve()
    {
        room.send(as_item(waiting.pop_front().unwrap_or_default()));
    }
}

/// Counts the bytes of a response; its type, which is field 4 in both kinds, for short.
fn count(bytes: &prometheus::IntCounterVec, message: &Bytes) -> &'static str {
    let label = type_label(wire::string(message, 4).unwrap_or_default());
    bytes
        .with_label_values(&[label])
        .inc_by(message.len() as u64);
    label
}

pub(super) fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next news of a workload; never, where nobody follows one.
async fn changed(known: &mut Option<watch::Receiver<Known>>) -> Known {
    if let Some(known) = known
        && known.changed().await.is_ok()
    {
        return known.borrow_and_update().clone();
    }
    std::future::pending().await
}
