//! Opens connections to servers.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::refuse::Refusal;

/// A peer that is gone without a word is noticed after about this much silence.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects within `limit`.
///
/// # Errors
/// When there is no connection; nothing has been sent then.
pub(crate) async fn dial(to: SocketAddr, limit: Duration) -> Result<TcpStream, Refusal> {
    let stream = match timeout(limit, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let why = error.to_string();
            return Err(Refusal::Connect { to, why });
        }
        Err(_) => return Err(Refusal::ConnectTimeout(to)),
    };
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        debug!(%error, %to, "socket options");
    }
    Ok(stream)
}
