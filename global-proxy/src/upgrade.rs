//! What has become another protocol: bytes both ways, until both sides have closed theirs.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tracing::debug;

use crate::access_log::{Outcome, Record};
use crate::pool::Lease;
use crate::worker::Worker;

/// Bytes read ahead each way.
const AHEAD: usize = 16 << 10;

/// Carries bytes between the two sides once both have upgraded. A side that closes its direction has it closed at the
/// other side; the other direction goes on. What breaks one side ends both.
pub(crate) fn start(
    worker: &Worker,
    caller: OnUpgrade,
    server: OnUpgrade,
    lease: Lease,
    record: Rc<Record>,
) {
    worker.tasks.spawn_local(async move {
        let _lease = lease;
        let (caller, server) = match futures::try_join!(caller, server) {
            Ok(sides) => sides,
            Err(error) => {
                debug!(%error, "upgrade failed");
                return;
            }
        };
        let (mut caller, mut server) = (TokioIo::new(caller), TokioIo::new(server));
        match copy_bidirectional_with_sizes(&mut caller, &mut server, AHEAD, AHEAD).await {
            Ok((sent, received)) => {
                record.sent().add(sent);
                record.received(usize::try_from(received).unwrap_or(usize::MAX));
                record.ends(Outcome::Relayed);
            }
            Err(error) => debug!(%error, "upgraded connection broke"),
        }
    });
}
