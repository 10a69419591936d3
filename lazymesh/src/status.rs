//! `lazymesh status`: each workload, its mode, what it learned, what is wrong.

use dependency_graph::Timestamp;
use serde::Serialize;

use crate::args::Format;
use crate::snapshot::{Snapshot, Stream};
use crate::table::{age, table};
use crate::view::{self, Problem};

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Where it is.
    pub namespace: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// In force.
    pub mode: &'static str,
    /// `Learning`, `Settling` or `Settled`.
    pub phase: Option<String>,
    /// Hosts times ports.
    pub learned: i32,
    /// Hosts.
    pub pinned: usize,
    /// When something new was last learned, in seconds since 1970.
    pub last_learned: Option<i64>,
    /// What the shims that were asked have of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<Sidecars>,
    /// What a person should know.
    pub problems: Vec<Problem>,
}

/// A workload's sidecars behind the shims that were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sidecars {
    /// How many streams.
    pub lazy: usize,
    /// How many are given everything.
    pub whole: usize,
    /// Outbound clusters kept back, of all of them together.
    pub held: u64,
    /// Outbound clusters that they have.
    pub given: u64,
}

/// One for each record, by namespace and name.
#[must_use]
pub fn rows(snapshot: &Snapshot) -> Vec<Row> {
    let row = |record| {
        let (namespace, kind, name) = view::about(record);
        let status = record.status.clone().unwrap_or_default();
        let last_learned = status.last_learned.as_ref();
        Row {
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            mode: snapshot.mode_of(record).as_str(),
            phase: status.phase.map(|phase| format!("{phase:?}")),
            learned: status.dependency_count,
            pinned: record.spec.pinned.len(),
            last_learned: last_learned.map(|time| time.0.as_second()),
            sidecars: sidecars(snapshot.streams.as_deref(), namespace, name),
            problems: view::problems(record),
        }
    };
    let mut rows: Vec<Row> = snapshot.records.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    rows
}

/// A shim does not say a workload's kind: those of one name are counted together.
fn sidecars(streams: Option<&[Stream]>, namespace: &str, name: &str) -> Option<Sidecars> {
    let named = format!("{namespace}/{name}");
    let its = streams?
        .iter()
        .filter(|one| one.workload.as_ref() == Some(&named));
    Some(its.fold(Sidecars::default(), |mut all, stream| {
        match &stream.clusters {
            Some(clusters) if clusters.whole.is_none() => {
                all.lazy += 1;
                all.held += clusters.held;
                all.given += clusters.admitted;
            }
            _ => all.whole += 1,
        }
        all
    }))
}

/// As text.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn show(rows: &[Row], format: Format, now: Timestamp) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(serde_json::to_string_pretty(rows)? + "\n");
    }
    if rows.is_empty() {
        return Ok(
            "no records yet: nothing was learned here (hint: -A shows all namespaces)\n".into(),
        );
    }
    let with_shims = rows.iter().any(|row| row.sidecars.is_some());
    let mut head = vec![
        "NAMESPACE",
        "WORKLOAD",
        "MODE",
        "PHASE",
        "LEARNED",
        "PINNED",
        "LAST",
    ];
    if with_shims {
        head.extend(["SIDECARS", "GIVEN", "HELD"]);
    }
    head.push("PROBLEMS");
    let lines = rows.iter().map(|row| line(row, with_shims, now));
    let mut text = table(&head, lines);
    for row in rows {
        for problem in &row.problems {
            let Row {
                namespace, name, ..
            } = row;
            let Problem {
                condition, message, ..
            } = problem;
            text += &format!("\n{namespace}/{name}: {condition}: {message}");
        }
    }
    Ok(if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    })
}

fn line(row: &Row, with_shims: bool, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let last = row.last_learned.map(|at| {
        let now = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        age(u64::try_from(now.saturating_sub(at)).unwrap_or_default())
    });
    let mut cells = vec![
        row.namespace.clone(),
        if row.kind == "Deployment" {
            row.name.clone()
        } else {
            format!("{}/{}", row.kind, row.name)
        },
        row.mode.to_owned(),
        row.phase.clone().unwrap_or_else(dash),
        row.learned.to_string(),
        row.pinned.to_string(),
        last.unwrap_or_else(dash),
    ];
    if with_shims {
        let its = row.sidecars.clone().unwrap_or_default();
        let whole = if its.whole > 0 {
            format!("+{} whole", its.whole)
        } else {
            String::new()
        };
        cells.extend([
            format!("{}{whole}", its.lazy),
            its.given.to_string(),
            its.held.to_string(),
        ]);
    }
    let mut problems: Vec<&str> = row
        .problems
        .iter()
        .map(|one| one.condition.as_str())
        .collect();
    problems.dedup();
    cells.push(if problems.is_empty() {
        dash()
    } else {
        problems.join(",")
    });
    cells
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{namespace, read, record, with_condition};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        namespace(&mut snapshot, "shop", "on-demand");
        snapshot.records = vec![
            with_condition(
                record("shop", "web", &[]),
                "UserSidecar",
                true,
                "UserSidecar",
            ),
            record("shop", "cart", &[("a.b", &[80, 81])]),
            record("other", "cart", &[]),
        ];
        snapshot
    }

    #[test]
    fn each_record_has_a_line() {
        let text = show(
            &rows(&snapshot()),
            Format::Table,
            Timestamp::from_seconds(1_767_312_000),
        )
        .unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(
            lines[1].starts_with("other") && lines[1].contains(" off "),
            "{text}"
        );
        assert!(
            lines[2].contains("on-demand   Learning   2         0        24h"),
            "{text}"
        );
        assert!(lines[3].ends_with("UserSidecar"), "{text}");
        assert_eq!(lines[5], "shop/web: UserSidecar: UserSidecar, in full");
    }

    #[test]
    fn what_shims_have_is_added_up() {
        let mut snapshot = snapshot();
        let stream = |workload: &str, clusters| json!({"proxy": "sidecar~10.0.0.1~p.shop~shop.svc.cluster.local", "treatment": "on_demand", "workload": workload, "clusters": clusters});
        snapshot.streams = Some(read(json!([
            stream("shop/cart", json!({"held": 10, "admitted": 2})),
            stream("shop/cart", json!({"held": 11, "admitted": 1})),
            stream(
                "shop/cart",
                json!({"held": 0, "admitted": 12, "whole": "why"})
            ),
        ])));
        let rows = rows(&snapshot);
        let expected = Sidecars {
            lazy: 2,
            whole: 1,
            held: 21,
            given: 3,
        };
        assert_eq!(rows[1].sidecars, Some(expected));
        assert_eq!(rows[0].sidecars, Some(Sidecars::default()));
        let text = show(&rows, Format::Table, Timestamp::from_seconds(0)).unwrap();
        assert!(text.contains("2+1 whole"), "{text}");
    }

    #[test]
    fn json_has_all_of_it() {
        let text = show(&rows(&snapshot()), Format::Json, Timestamp::from_seconds(0)).unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[1]["name"], "cart");
        assert_eq!(rows[2]["problems"][0]["condition"], "UserSidecar");
    }
}
