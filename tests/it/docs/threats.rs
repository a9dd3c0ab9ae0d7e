//! The tables of `SECURITY.md`: their tests and flags exist.

use std::fs;

use markread_harness::tools::file;

use super::{Table, code, configuration};

const ROLES: [&str; 5] = [
    "A caller",
    "A trusted client",
    "A webhook receiver",
    "A neighbour",
    "Someone with access to Redis",
];

fn page() -> &'static str {
    include_str!("../../../SECURITY.md")
}

/// The file of a module of `tests/it`.
fn module(path: &str) -> Option<std::path::PathBuf> {
    let path = path.replace("::", "/");
    let places = [format!("tests/it/{path}.rs"), format!("tests/it/{path}/mod.rs")];
    places.iter().map(|place| file(place)).find(|place| place.exists())
}

/// Whether a name in the column of tests exists: a file, a module of `tests/it`, or a test in one.
fn exists(test: &str) -> bool {
    let is_in = |module: std::path::PathBuf, name: &str| {
        fs::read_to_string(module).unwrap().contains(&format!("fn {name}("))
    };
    let parts = test.rsplit_once("::");
    file(test).exists()
        || module(test).is_some()
        || parts.is_some_and(|(path, name)| module(path).is_some_and(|file| is_in(file, name)))
}

#[test]
fn every_threat_has_a_test_and_its_flags_exist() {
    let tables: Vec<_> =
        Table::all(page()).into_iter().filter(|table| table.has("threat")).collect();
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

#[test]
fn every_role_can_and_cannot_and_each_cannot_has_a_test() {
    let tables = Table::all(page());
    for role in ROLES {
        let of_role = || tables.iter().filter(move |table| table.heading == role);
        assert!(of_role().any(|table| table.has("can")), "{role}: what it can do");
        let cannot: Vec<_> =
            of_role().filter(|table| table.has("cannot")).flat_map(|table| &table.rows).collect();
        assert!(cannot.len() >= 5, "{role}: {} things that it cannot do", cannot.len());
        for row in cannot {
            assert!(!row["because"].is_empty(), "the reason of: {}", row["cannot"]);
            assert!(code(row["test"]).next().is_some(), "a test of: {}", row["cannot"]);
            for test in code(row["test"]) {
                assert!(exists(test), "{test}: the test of {}", row["cannot"]);
            }
        }
    }
    assert!(exists("threat_model::whoever_reads_redis_finds_no_secret"));
    assert!(
        !exists("threat_model::whoever_reads_redis_finds_a_secret"),
        "a test that is not there"
    );
}

/// The flags that limit what a role can do.
#[test]
fn flags_of_roles_exist() {
    for table in Table::all(page()).iter().filter(|table| table.has("what limits it")) {
        for flag in table.rows.iter().flat_map(|row| code(row["what limits it"])) {
            let name = flag.split(' ').next().unwrap();
            let is_flag = name.starts_with("--");
            assert!(
                !is_flag || configuration().contains(&format!("| `{name}`")),
                "{name} is a flag"
            );
        }
    }
}
