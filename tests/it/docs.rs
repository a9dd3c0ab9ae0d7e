//! The pages of `docs/` say what the program does: every flag, every answer, every metric.

use std::collections::BTreeMap;

mod answers;
mod flags;
mod image;
mod links;
mod metrics;
mod proto;
mod threats;

fn contract() -> &'static str {
    include_str!("../../docs/contract.md")
}

fn configuration() -> &'static str {
    include_str!("../../docs/configuration.md")
}

/// A row of a table: its cells by the name of their column.
type Row<'a> = BTreeMap<&'a str, &'a str>;

/// A table of a page.
struct Table<'a> {
    /// The closest heading of level 2 above it.
    section: &'a str,
    /// The closest heading of any level above it.
    heading: &'a str,
    rows: Vec<Row<'a>>,
}

impl<'a> Table<'a> {
    fn has(&self, column: &str) -> bool {
        self.rows.first().is_some_and(|row| row.contains_key(column))
    }

    /// Every table of a page. A cell has no `|` of its own.
    fn all(page: &'a str) -> Vec<Self> {
        let (mut section, mut heading, mut tables) = ("", "", Vec::new());
        let mut lines = page.lines().peekable();
        while let Some(line) = lines.next() {
            if line.starts_with('#') {
                let text = line.trim_start_matches('#').trim();
                heading = text;
                section = if line.starts_with("## ") { text } else { section };
            }
            if !line.starts_with('|') {
                continue;
            }
            let columns = cells(line);
            let mut rows = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('|')) {
                let cells = cells(line);
                assert_eq!(cells.len(), columns.len(), "as many cells as columns: {line}");
                rows.push(columns.iter().copied().zip(cells).collect());
            }
            // The first is the line between the head and the rows.
            rows.remove(0);
            tables.push(Self { section, heading, rows });
        }
        tables
    }
}

fn cells(line: &str) -> Vec<&str> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(str::trim).collect()
}

/// What stands in a cell, without the marks of code.
fn plain(cell: &str) -> String {
    cell.replace('`', "")
}

/// Every piece of code in a text.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
