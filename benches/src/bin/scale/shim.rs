//! The shim under test, in front of a control plane of the bench's own.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::process::Process;

/// Starts it in front of a control plane; its log goes to `folder`. Proxies are made lazy, for there is no controller that
/// says which. The second: where it takes streams.
///
/// # Errors
/// When it does not listen.
pub(crate) async fn start(
    program: &Path,
    folder: &Path,
    upstream: SocketAddr,
) -> Result<(Process, SocketAddr)> {
    let upstream = upstream.to_string();
    let flags = [
        "--listen=127.0.0.1:0",
        "--plaintext",
        "--admin-listen=127.0.0.1:0",
        "--upstream-plaintext",
        "--default-mode=on-demand",
        "--upstream",
        &upstream,
    ];
    let shim = Process::start("xds-shim", program, &flags, folder).await?;
    let address = shim.address("xds")?;
    Ok((shim, address))
}
