//! Who opened a tunnel and where it leads, for what is found in it; and whether its service has been learned since.

use std::cell::OnceCell;
use std::rc::Rc;

use http::HeaderMap;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use crate::graph::Ticket;
use crate::incoming::{Incoming, strip};

/// Where a tunnel comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    incoming: Incoming,
    learned: Rc<watch::Sender<bool>>,
    /// Waits for what was first called in it to be learned. It ends with the tunnel.
    following: OnceCell<AbortOnDropHandle<()>>,
}

impl Origin {
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            learned: Rc::new(watch::Sender::new(false)),
            following: OnceCell::new(),
        }
    }

    pub(crate) fn came(&self) -> &Incoming {
        &self.incoming
    }

    /// What a request in the tunnel is. What the application has written in our name is taken out of it.
    pub(crate) fn incoming(&self, headers: &mut HeaderMap) -> Incoming {
        strip(headers);
        self.incoming.clone()
    }

    /// Once the caller's Sidecar gives it what this call is for, what sticks to this tunnel is told to come anew, and goes
    /// direct. A tunnel leads to one address: its first call stands for all.
    pub(crate) fn follow(&self, ticket: &Ticket) {
        self.following.get_or_init(|| {
            let (mut ticket, learned) = (ticket.clone(), self.learned.clone());
            AbortOnDropHandle::new(spawn_local(async move {
                ticket.written().await;
                learned.send_replace(true);
            }))
        });
    }

    /// The caller's Sidecar gives it the service by now.
    #[cfg(test)]
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
