//! A YAML file as a row of documents, one of which can be replaced while the others stay byte for byte.

use std::str::FromStr;

use dependency_graph::fallback::{POLICY_ANNOTATION, annotated};
use dependency_graph::{Mode, Namespace, mode};
use serde_yaml_ng::Value;
use tracing::warn;

use crate::resource::{Entry, WorkloadDependencies, entry};

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document {
    Namespace(String, Namespace),
    Record(Box<(WorkloadDependencies, Entry)>),
    /// Nothing, but comments.
    Empty,
}

/// The texts between the `---` lines of a file.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let marker = line.trim_end();
        if marker == "---" || marker.starts_with("--- ") {
            documents.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    documents
}

/// The file with its document `index`, as of [`split`], replaced.
pub(crate) fn replace(text: &str, index: usize, document: &str) -> String {
    let Some(old) = split(text).get(index).copied() else {
        return text.to_owned();
    };
    let start = old.as_ptr() as usize - text.as_ptr() as usize;
    let (before, after) = (&text[..start], &text[start + old.len()..]);
    [before, document, after].concat()
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Document, String> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    if value.is_null() {
        return Ok(Document::Empty);
    }
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match kind {
        "Namespace" => namespace(&value),
        "WorkloadDependencies" => {
            let resource: WorkloadDependencies =
                serde_yaml_ng::from_value(value).map_err(|error| error.to_string())?;
            let entry = entry(&resource).map_err(|error| error.to_string())?;
            Ok(Document::Record(Box::new((resource, entry))))
        }
        other => Err(format!(
            "kind {other:?} is neither Namespace nor WorkloadDependencies"
        )),
    }
}

fn namespace(value: &Value) -> Result<Document, String> {
    let metadata = value.get("metadata").unwrap_or(&Value::Null);
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty() {
        return Err("a Namespace without metadata.name".into());
    }
    let labelled = |name: &str| metadata.get("labels").and_then(|labels| labels.get(name));
    let label = labelled(mode::LABEL);
    let mode = match label {
        None => None,
        // YAML 1.1 tools write off as a boolean.
        Some(Value::Bool(false)) => Some(Mode::Off),
        Some(label) => {
            let text = label
                .as_str()
                .ok_or_else(|| format!("{} is no text", mode::LABEL))?;
            Some(Mode::from_str(text).map_err(|error| error.to_string())?)
        }
    };
    let annotation = metadata
        .get("annotations")
        .and_then(|annotations| annotations.get(POLICY_ANNOTATION));
    // One that is no text is no policy either.
    let (fallback, wrong) =
        annotated(annotation.map(|annotation| annotation.as_str().unwrap_or_default()));
    if let Some(error) = wrong {
        warn!(namespace = name, %error, counts_as = %fallback, "its annotation is none; nothing is relayed");
    }
    let paused = labelled(mode::PAUSED).is_some_and(|value| {
        // As a text, and as those write it who forget the quotes.
        value.as_str() == Some("true") || value.as_bool() == Some(true)
    });
    let says = Namespace {
        mode,
        fallback,
        paused,
    };
    Ok(Document::Namespace(name.into(), says))
}

/// A record as a document.
pub(super) fn write(resource: &WorkloadDependencies) -> Result<String, String> {
    serde_yaml_ng::to_string(resource).map_err(|error| error.to_string())
}
