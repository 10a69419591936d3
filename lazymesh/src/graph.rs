//! `lazymesh graph`: who calls whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::args::Format;
use crate::snapshot::Snapshot;
use crate::table::table;
use crate::view;

/// A workload and a host that it is known to use.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// `namespace/name` of the workload, with its kind in front if it is no Deployment.
    pub workload: String,
    /// The full name.
    pub host: String,
    /// Service ports; none stands for all of them.
    pub ports: Vec<i32>,
    /// `HTTP` or `TCP`; absent for what is pinned.
    pub protocol: Option<String>,
    /// `OnDemand`, `Fallback`, `Telemetry` or `Pinned`.
    pub source: String,
}

/// All that records say, pins among it.
#[must_use]
pub fn edges(snapshot: &Snapshot) -> Vec<Edge> {
    let mut edges = Vec::new();
    for record in &snapshot.records {
        let (namespace, kind, name) = view::about(record);
        let workload = match kind {
            "Deployment" => format!("{namespace}/{name}"),
            _ => format!("{kind}/{namespace}/{name}"),
        };
        let learned = record.status.iter().flat_map(|status| &status.dependencies);
        edges.extend(learned.map(|one| Edge {
            workload: workload.clone(),
            host: one.host.clone(),
            ports: one.ports.clone(),
            protocol: Some(one.protocol.clone()),
            source: one.source.clone(),
        }));
        edges.extend(record.spec.pinned.iter().map(|pin| Edge {
            workload: workload.clone(),
            host: pin.host.clone(),
            ports: pin.ports.clone(),
            protocol: None,
            source: "Pinned".into(),
        }));
    }
    edges.sort();
    edges
}

/// As text.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn show(edges: &[Edge], format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => rows(edges),
        Format::Json => serde_json::to_string_pretty(edges)? + "\n",
        Format::Dot => dot(edges),
        Format::Mermaid => mermaid(edges),
    })
}

fn rows(edges: &[Edge]) -> String {
    let line = |edge: &Edge| {
        vec![
            edge.workload.clone(),
            edge.host.clone(),
            ports(edge),
            edge.protocol.clone().unwrap_or_else(|| "-".into()),
            edge.source.clone(),
        ]
    };
    let head = ["WORKLOAD", "HOST", "PORTS", "PROTOCOL", "SOURCE"];
    table(&head, edges.iter().map(line))
}

fn ports(edge: &Edge) -> String {
    let ports: Vec<String> = edge.ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() {
        "all".into()
    } else {
        ports.join(",")
    }
}

/// One line between two points, whatever protocols and ports.
fn merged(edges: &[Edge]) -> BTreeMap<(&str, &str), BTreeSet<String>> {
    let mut merged: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for edge in edges {
        let line = merged
            .entry((edge.workload.as_str(), edge.host.as_str()))
            .or_default();
        line.insert(ports(edge));
    }
    merged
}

/// For Graphviz.
fn dot(edges: &[Edge]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from("digraph lazymesh {\n  rankdir=LR;\n  node [shape=box];\n");
    for ((workload, host), ports) in merged(edges) {
        let ports = ports.into_iter().collect::<Vec<_>>().join(" ");
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {} -> {} [label={}];",
            quoted(workload),
            quoted(host),
            quoted(&ports)
        );
    }
    text + "}\n"
}

/// For Markdown. Its names of points take few characters: they are numbered.
fn mermaid(edges: &[Edge]) -> String {
    let merged = merged(edges);
    let points: BTreeSet<&str> = merged.keys().flat_map(|(from, to)| [*from, *to]).collect();
    let numbers: BTreeMap<&str, usize> = points
        .iter()
        .enumerate()
        .map(|(n, point)| (*point, n))
        .collect();
    let mut text = String::from("flowchart LR\n");
    for (point, number) in &numbers {
        let _ = writeln!(text, "  n{number}[\"{}\"]", point.replace('"', "#quot;"));
    }
    for ((from, to), ports) in merged {
        let ports = ports.into_iter().collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            text,
            "  n{} -- \"{ports}\" --> n{}",
            numbers[from], numbers[to]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{read, record};
    use serde_json::json;

    fn all() -> Vec<Edge> {
        let mut web = record(
            "shop",
            "web",
            &[("b.shop.svc", &[80, 81]), ("a.shop.svc", &[80])],
        );
        web.spec.pinned = read(json!([{"host": "b.shop.svc"}]));
        let records = vec![web];
        edges(&Snapshot {
            records,
            ..Snapshot::default()
        })
    }

    #[test]
    fn a_table_has_a_line_for_each() {
        let text = show(&all(), Format::Table).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].starts_with("shop/web   a.shop.svc   80 "),
            "{text}"
        );
        assert!(lines[1].contains("all     -          Pinned"), "{text}");
    }

    #[test]
    fn drawings_have_one_line_between_two_points() {
        let dot = show(&all(), Format::Dot).unwrap();
        assert_eq!(dot.matches("->").count(), 2, "{dot}");
        assert!(
            dot.contains("\"shop/web\" -> \"b.shop.svc\" [label=\"80,81 all\"];"),
            "{dot}"
        );
        let mermaid = show(&all(), Format::Mermaid).unwrap();
        assert!(mermaid.contains("n2[\"shop/web\"]"), "{mermaid}");
        assert!(mermaid.contains("n2 -- \"80\" --> n0"), "{mermaid}");
        assert_eq!(mermaid.lines().count(), 1 + 3 + 2, "{mermaid}");
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert_eq!(show(&[], Format::Dot).unwrap().lines().count(), 4);
        assert_eq!(show(&[], Format::Mermaid).unwrap(), "flowchart LR\n");
        assert_eq!(show(&[], Format::Json).unwrap(), "[]\n");
    }
}
