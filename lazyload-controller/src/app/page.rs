//! The debug page of the graph.

use dependency_graph::Graph;
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Serialize)]
struct DumpedWorkload {
    workload: String,
    kind: String,
    mode: Option<&'static str>,
    in_force: &'static str,
    pinned: Vec<String>,
    learned: Vec<String>,
}

pub(super) fn dump(graph: &Graph) -> Value {
    let namespaces: serde_json::Map<String, Value> = graph
        .namespaces()
        .map(|(name, says)| {
            let mode = says.mode.map(|mode| mode.as_str());
            let fallback = says.fallback.as_str();
            (name.to_owned(), json!({"mode": mode, "fallback": fallback}))
        })
        .collect();
    let workloads = graph.workloads().map(|(workload, record)| DumpedWorkload {
        workload: workload.to_string(),
        kind: workload.kind().to_owned(),
        mode: record.mode.map(|mode| mode.as_str()),
        in_force: graph.mode_of(workload).as_str(),
        pinned: record
            .pinned
            .iter()
            .map(|pin| pin.host.to_string())
            .collect(),
        learned: record
            .learned
            .dependencies()
            .map(|dependency| dependency.to_string())
            .collect(),
    });
    json!({"namespaces": namespaces, "workloads": workloads.collect::<Vec<_>>()})
}
