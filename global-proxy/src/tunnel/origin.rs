//! Who opened a tunnel and where it leads, for what is found in it; and whether its service has been learned since.

use http::HeaderMap;
use tokio::sync::watch;

use crate::incoming::{Incoming, strip};

/// Where a tunnel comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    incoming: Incoming,
    learned: watch::Sender<bool>,
}

impl Origin {
    pub(crate) fn new(incoming: Incoming) -> Self {
        let (learned, _) = watch::channel(false);
        Self { incoming, learned }
    }

    pub(crate) fn came(&self) -> &Incoming {
        &self.incoming
    }

    /// What a request in the tunnel is. What the application has written in our name is taken out of it.
    pub(crate) fn incoming(&self, headers: &mut HeaderMap) -> Incoming {
        strip(headers);
        self.incoming.clone()
    }

    /// The caller's Envoy has the service by now: what sticks to this tunnel is told to come anew, and goes direct.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the graph API's client says it")
    )]
    pub(crate) fn learn(&self) {
        self.learned.send_replace(true);
    }

    /// Whether it has been learned.
    pub(crate) fn is_learned(&self) -> bool {
        *self.learned.borrow()
    }

    /// Returns once it has been learned.
    pub(crate) async fn learned(&self) {
        // There is a sender, this, for as long as there is somebody to wait.
        let _ = self.learned.subscribe().wait_for(|learned| *learned).await;
    }
}
