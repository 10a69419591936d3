//! What shims have open: `/debug/streams` on their admin ports.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::snapshot::{Snapshot, Stream};

const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes. A stream is shown in some 300.
const LARGEST: usize = 64 << 20;

/// Adds what these shims have; nothing if none is given.
///
/// # Errors
/// When one of them cannot be asked.
pub async fn look(snapshot: &mut Snapshot, urls: &[String]) -> Result<()> {
    if urls.is_empty() {
        return Ok(());
    }
    let all = try_join_all(urls.iter().map(|url| streams(url))).await?;
    (snapshot.streams, snapshot.shims_asked) = (Some(all.concat()), urls.len());
    Ok(())
}

async fn streams(url: &str) -> Result<Vec<Stream>> {
    let hint = "hint: the admin port, such as http://127.0.0.1:15014 after `kubectl port-forward`";
    let fetch = async {
        let uri: Uri = format!("{}/debug/streams", url.trim_end_matches('/')).parse()?;
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let response = client.get(uri).await?;
        ensure!(
            response.status().is_success(),
            "status {}",
            response.status()
        );
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    };
    let found = tokio::time::timeout(PATIENCE, fetch).await;
    found
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")))
        .with_context(|| format!("asking the shim at {url:?} ({hint})"))
}
