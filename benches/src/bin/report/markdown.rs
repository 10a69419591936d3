//! Tables.

/// A table of Markdown. `head`: of its columns; the first `texts` are text, the others numbers.
pub(crate) fn table(head: &[String], rows: &[Vec<String>], texts: usize) -> String {
    let rule = |at: usize| if at < texts { "---" } else { "---:" };
    let rules: Vec<String> = (0..head.len()).map(|at| rule(at).to_owned()).collect();
    let lines = [head, &rules].into_iter();
    let lines = lines.chain(rows.iter().map(Vec::as_slice));
    lines.map(line).collect()
}

/// Two columns: names and what they are.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let rows = rows.iter();
    let rows: Vec<_> = rows
        .map(|(name, value)| vec![(*name).to_owned(), value.clone()])
        .collect();
    table(&[String::new(), String::new()], &rows, 2)
}

fn line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| escape(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// What a cell may hold: one line, and no bar that ends it.
fn escape(cell: &str) -> String {
    cell.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_a_table() {
        let head = ["a".to_owned(), "b".to_owned()];
        let rows = [vec!["x|y".to_owned(), "1\n2".to_owned()]];
        assert_eq!(
            table(&head, &rows, 1),
            "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |\n"
        );
    }
}
