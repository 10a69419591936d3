//! The part of the README that is generated.

use anyhow::{Result, bail};

use crate::claims;
use crate::found::{Found, Size, title};
use crate::markdown::table;
use crate::measures::{Measure, SHORT};
use crate::page::summary;
use crate::plots::Drawn;
use crate::show::count;

const BEGIN: &str = "<!-- numbers:begin -->\n";
const END: &str = "<!-- numbers:end -->";
/// Sizes that are shown, if they were measured.
const SIZES: [u32; 2] = [1000, 5000];

/// The README with its part rewritten. `results`: the folder of the report, as the README names it.
///
/// # Errors
/// The README has not both marks, in this order, once each.
pub(crate) fn rewrite(
    readme: &str,
    found: &Found,
    plots: &[Drawn],
    results: &str,
) -> Result<String> {
    let parts = readme.split_once(BEGIN);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (_, after))) = parts.filter(|(_, (_, after))| !after.contains(BEGIN)) else {
        bail!(
            "no part between {} and {END} in the README",
            BEGIN.trim_end()
        );
    };
    let part = part(found, plots, results);
    Ok(format!("{before}{BEGIN}{part}{END}{after}"))
}

fn part(found: &Found, plots: &[Drawn], results: &str) -> String {
    let sizes: Vec<&Size> = SIZES
        .into_iter()
        .filter_map(|size| found.size(size))
        .collect();
    if sizes.is_empty() {
        return "Not measured by `make bench` yet; [docs/facts.md](docs/facts.md) has what was measured on the way.\n".into();
    }
    let mut head = vec!["services".to_owned(), "one sidecar".to_owned()];
    head.extend(mesh_tests::bench_report::WAYS.map(title));
    let rows = sizes.into_iter();
    let rows: Vec<_> = rows
        .flat_map(|size| SHORT.map(|measure| row(size, measure)))
        .collect();
    let mut out = table(&head, &rows, 2);
    if let Some(plot) = plots.first() {
        out += &format!("\n![{}]({results}/{})\n", plot.title, plot.file);
    }
    let summary = summary(&claims::all(found));
    out + &format!("\n{summary} [All numbers]({results}/README.md), made by `make report`.\n")
}

fn row(size: &Size, measure: Measure) -> Vec<String> {
    let ways = mesh_tests::bench_report::WAYS.into_iter();
    let values = ways.map(|way| measure.unit.show_if(size.get(way, measure.field)));
    let mut row = vec![count(f64::from(size.services)), measure.title.to_owned()];
    row.extend(values);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::found;
    use serde_json::json;

    const README: &str = "# A\n<!-- numbers:begin -->\noutdated\n<!-- numbers:end -->\nafter\n";

    #[test]
    fn only_its_part_changes() {
        let new = rewrite(README, &Found::default(), &[], "results").unwrap();
        assert!(new.starts_with("# A\n<!-- numbers:begin -->\nNot measured by"));
        assert!(new.ends_with("\n<!-- numbers:end -->\nafter\n"));
        assert!(!new.contains("outdated"));
        assert_eq!(
            rewrite(&new, &Found::default(), &[], "results").unwrap(),
            new
        );
    }

    #[test]
    fn numbers_are_in_it() {
        let sizes = json!({"1000": {"on_demand": {"heap_bytes": 8_000_000}}, "200": {"plain": {"heap_bytes": 1}}});
        let found = found(json!({ "sizes": sizes }), None, None);
        let new = rewrite(README, &found, &[], "results").unwrap();
        let row = "| 1,000 | config heap | not measured | not measured | not measured | 8.00 MB | not measured |";
        assert!(new.contains(row), "{new}");
        assert!(!new.contains("| 200 |"));
        assert!(new.contains("](results/README.md)"));
    }

    #[test]
    fn without_its_marks_it_is_refused() {
        for bad in [
            "",
            "<!-- numbers:begin -->\n",
            "<!-- numbers:end -->\n<!-- numbers:begin -->\n",
            "<!-- numbers:begin -->\n<!-- numbers:end --><!-- numbers:begin -->\n",
        ] {
            let refused = rewrite(bad, &Found::default(), &[], "results");
            assert!(refused.is_err(), "{bad}");
        }
    }
}
