//! Bytes both ways, until both sides have closed theirs.

use std::cell::Cell;
use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::end::{End, Watch};
use super::record::{Moved, Outcome};

/// Bytes read ahead each way. What is read is written before more is read, so the slower side sets the pace.
const AHEAD: usize = 16 << 10;

/// Which side broke.
enum Broke {
    Reading,
    Writing,
}

/// Carries bytes. A side that closes its direction has it closed at the other side, and the other direction goes on.
/// Unless it comes to its end on both, neither side has been told that it ended: the caller of this breaks them.
pub(super) async fn pump<E: End>(
    caller: &mut E,
    server: &mut TcpStream,
    moved: &Moved,
    idle: Duration,
) -> Outcome {
    let watch = caller.watch();
    let last = Cell::new(Instant::now());
    let (from_caller, to_caller) = split(caller);
    let (from_server, to_server) = server.split();
    let sent = async {
        let carried = direction(from_caller, to_server, &moved.sent, &last).await;
        carried.map_err(|broke| match broke {
            Broke::Reading => Outcome::CallerCut,
            Broke::Writing => Outcome::ServerCut,
        })
    };
    let received = async {
        let carried = direction(from_server, to_caller, &moved.received, &last).await;
        carried.map_err(|broke| match broke {
            Broke::Reading => Outcome::ServerCut,
            Broke::Writing => Outcome::CallerCut,
        })
    };
    tokio::select! {
        both = async { tokio::try_join!(sent, received) } => match both {
            Ok(_) => Outcome::Relayed,
            Err(outcome) => outcome,
        },
        () = poll_fn(|cx| watch.poll_reset(cx)) => Outcome::CallerCut,
        () = silence(&last, idle) => Outcome::Idle,
    }
}

async fn direction(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Cell<u64>,
    last: &Cell<Instant>,
) -> Result<(), Broke> {
    let mut buffer = vec![0; AHEAD];
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| Broke::Reading)?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| Broke::Writing);
        }
        last.set(Instant::now());
        let written = to.write_all(&buffer[..read]).await;
        written.map_err(|_| Broke::Writing)?;
        moved.set(moved.get() + read as u64);
        last.set(Instant::now());
    }
}

/// Returns once nothing has moved for `idle`.
async fn silence(last: &Cell<Instant>, idle: Duration) {
    loop {
        let until = last.get() + idle;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}
