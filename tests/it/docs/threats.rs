//! The tables of threats in `SECURITY.md`: their tests and flags exist.

use markread_harness::tools::file;

use super::{Table, code, configuration};

/// Whether a name in the column of tests exists: a file, or a module of `tests/it`.
fn exists(test: &str) -> bool {
    let module = test.replace("::", "/");
    let places =
        [test.to_owned(), format!("tests/it/{module}.rs"), format!("tests/it/{module}/mod.rs")];
    places.iter().any(|place| file(place).exists())
}

#[test]
fn every_threat_has_a_test_and_its_flags_exist() {
    let page = include_str!("../../../SECURITY.md");
    let tables: Vec<_> = Table::all(page).into_iter().filter(|table| table.has("threat")).collect();
    let mut threats = 0;
    for row in tables.iter().flat_map(|table| &table.rows) {
        threats += 1;
        assert!(code(row["test"]).next().is_some(), "a test of: {}", row["threat"]);
        for test in code(row["test"]) {
            assert!(exists(test), "{test}: the test of {}", row["threat"]);
        }
        for flag in code(row["flag"]) {
            assert!(configuration().contains(&format!("| `{flag}` |")), "{flag} is a flag");
        }
    }
    assert!(threats > 25, "{threats} threats");
    assert!(!exists("bounds::nothing"), "a module that is not there");
}
