//! HTTP/1.0, written by hand: a request, and its answer: as long as it says, or until the other side closes.

use anyhow::{Context, Result};
use mesh_tests::app::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Target, file_body};

pub(crate) async fn call(target: &Target) -> Result<Outcome> {
    let mut stream = target.connect().await?;
    let mut head = format!(
        "{} {} HTTP/1.0\r\nhost: {}\r\n",
        target.method, target.path, target.authority
    );
    for (name, value) in &target.headers {
        head += &format!("{name}: {}\r\n", value.to_str()?);
    }
    if !target.body.is_empty() {
        head += &format!("content-length: {}\r\n", target.body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&target.body).await?;
    let mut answer = Vec::new();
    // Until it is whole: who closes then may take its time.
    while length(&answer).is_none_or(|length| answer.len() < length) {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            // What came before a reset counts.
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(error).context("waiting for an answer"),
        }
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.context("an answer without a head")? + 4);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(':'));
    let mut outcome = Outcome {
        status: Some(status.context("no status")?.parse()?),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        ..Outcome::default()
    };
    file_body(&mut outcome, body);
    Ok(outcome)
}

/// How long the answer is that begins so, if that can be known: head and body.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| *name == "content-length")?;
    Some(head + value.trim().parse::<usize>().ok()?)
}
