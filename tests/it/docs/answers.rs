//! The table of answers in `docs/contract.md` against every refusal of the service.

use markread::edge::answer::table::{Row, TABLE};
use markread::proto::codes::code_name;
use markread::telemetry::metrics::MarkOutcome;

use super::{Row as PageRow, Table, contract, plain};

/// What a refusal is in each protocol, and how it is counted, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    code: String,
    reason: String,
    http_status: String,
    v11_code: String,
    outcome: String,
}

/// What does not happen: a refusal that one protocol does not have, or that is not counted.
const NEVER: &str = "–";

impl Answer {
    fn from_row(row: &PageRow<'_>) -> Self {
        Self {
            code: plain(row["code"]),
            reason: plain(row["reason"]),
            http_status: plain(row["HTTP"]),
            v11_code: plain(row["v1.1"]),
            outcome: plain(row["outcome"]),
        }
    }

    fn cells(&self) -> [&str; 5] {
        [&self.code, &self.reason, &self.http_status, &self.v11_code, &self.outcome]
    }

    /// Whether this row of the page describes that row of the service.
    fn matches(&self, service: &Self) -> bool {
        let mut pairs = self.cells().into_iter().zip(service.cells());
        pairs.all(|(page, service)| page == NEVER || page == service)
    }
}

fn rows_of_the_page() -> Vec<Answer> {
    let tables = Table::all(contract()).into_iter();
    let table = tables.filter(|table| table.heading == "Answers" && table.has("v1.1"));
    table.flat_map(|table| table.rows).map(|row| Answer::from_row(&row)).collect()
}

/// Every row of the service's table; a missing parameter is the only refusal with a code of its own.
fn rows_of_the_service() -> Vec<Answer> {
    let missing = Row { v1_code: 38, ..TABLE[0] };
    let rows = TABLE.iter().copied().chain([missing]);
    rows.map(|row| Answer {
        code: code_name(row.code).to_owned(),
        reason: row.reason.unwrap_or("none").to_owned(),
        http_status: row.http_status.as_u16().to_string(),
        v11_code: row.v1_code.to_string(),
        outcome: label(row.outcome).to_owned(),
    })
    .collect()
}

fn label(outcome: MarkOutcome) -> &'static str {
    MarkOutcome::ALL.into_iter().find(|(known, _)| *known == outcome).unwrap().1
}

#[test]
fn the_table_of_answers_is_that_of_the_service() {
    let mut service = rows_of_the_service();
    let mut page = rows_of_the_page();
    assert!(page.len() > 20, "{page:#?}");
    // Those that leave nothing open first, so that no other takes their place.
    page.sort_by_key(|answer| answer.cells().iter().filter(|cell| **cell == NEVER).count());
    for answer in &page {
        match service.iter().position(|row| answer.matches(row)) {
            Some(index) => service.remove(index),
            None => panic!("no refusal is {answer:?}: {service:#?}"),
        };
    }
    assert_eq!(service, [], "refusals that the page does not have");
}

/// What is left open is what cannot happen, and no more: 4 refusals are of HTTP alone, 5 of gRPC
/// alone, and 4 are never a mark's.
#[test]
fn the_table_of_answers_leaves_open_what_cannot_happen() {
    let mut open = [0; 5];
    for answer in rows_of_the_page() {
        let cells = answer.cells().into_iter();
        for (cell, count) in cells.zip(&mut open) {
            *count += i32::from(cell == NEVER);
        }
    }
    assert_eq!(open, [4, 4, 5, 5, 4], "code, reason, HTTP, v1.1, outcome");
}
