//! What comes back from the query API, read.

use serde::Deserialize;

use super::Fault;

/// How much is said of what someone else wrote.
const SHOWN: usize = 300;

/// The rows of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Each with the labels it was asked by.
    pub rows: Vec<Row>,
    /// Whether it says that nothing is missing: a server that asks others may answer with a part.
    pub complete: bool,
}

/// One row; a label that is not there is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `source_workload`.
    pub workload: String,
    /// `destination_service`.
    pub service: String,
    /// Its value: a number.
    pub value: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    status: String,
    data: Option<Data>,
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: Labels,
    value: (f64, String),
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    source_workload: String,
    #[serde(default)]
    destination_service: String,
}

/// Reads an answer.
///
/// # Errors
/// When it is none.
pub(super) fn parse(body: &[u8]) -> Result<Answer, Fault> {
    let malformed = |reason: &str| Fault::Malformed(reason.chars().take(SHOWN).collect());
    let envelope: Envelope =
        serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
    if envelope.status != "success" {
        let reason = envelope.error.unwrap_or_default();
        return Err(malformed(&format!(
            "status {:?}: {reason}",
            envelope.status
        )));
    }
    let data = envelope.data.ok_or_else(|| malformed("it has no data"))?;
    if data.result_type != "vector" {
        return Err(malformed(&format!("a {} is no vector", data.result_type)));
    }
    let mut rows = Vec::with_capacity(data.result.len());
    for series in data.result {
        let (_, value) = series.value;
        let value: f64 = value
            .parse()
            .map_err(|_| malformed(&format!("{value:?} is no number")))?;
        if value.is_finite() {
            rows.push(Row {
                workload: series.metric.source_workload,
                service: series.metric.destination_service,
                value,
            });
        }
    }
    // Later versions also say here what they think of the expression.
    let complete = envelope
        .warnings
        .iter()
        .all(|warning| warning.starts_with("PromQL info:"));
    Ok(Answer { rows, complete })
}

/// Why a query was refused, if the body says so.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let reason: String = envelope.error?.chars().take(SHOWN).collect();
    (!reason.is_empty()).then_some(reason)
}

/// Whether a smaller question may be answered where this one was refused.
pub(super) fn asks_too_much(reason: &str) -> bool {
    ["too many samples", "query timed out", "limit"]
        .iter()
        .any(|sign| reason.contains(sign))
}
