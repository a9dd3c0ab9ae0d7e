//! The rooms of `src/`: each imports only rooms on a lower floor (`ARCHITECTURE.md`, "Rooms").

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, floor by floor from the top. Rooms of one floor do not import each other.
const FLOORS: [&[&str]; 9] = [
    &["cli"],
    &["edge", "ops"],
    &["service", "relay"],
    &["identity", "store"],
    &["net"],
    &["telemetry"],
    &["files"],
    &["domain"],
    &["proto"],
];

/// The client stands apart: only `cli` imports it, and it imports only these.
const CLIENT: &str = "client";
const CLIENT_IMPORTS: [&str; 2] = ["domain", "proto"];

/// Returns a room's floor, counted from the top.
fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn may_import(room: &str, other: &str) -> bool {
    match (room, other) {
        (CLIENT, other) => CLIENT_IMPORTS.contains(&other),
        (room, CLIENT) => room == "cli",
        _ => floor(room).zip(floor(other)).is_some_and(|(from, to)| from < to),
    }
}

/// Returns the rooms that a file's text names as `crate::<room>`.
fn imports(text: &str) -> BTreeSet<&str> {
    let paths = text.split("crate::").skip(1);
    let rooms = paths.map(|path| {
        let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        &path[..end.unwrap_or(path.len())]
    });
    rooms.filter(|name| *name == CLIENT || floor(name).is_some()).collect()
}

/// Returns a line for each import of a room that the file's own room may not import, and for paths that
/// [`imports`] cannot read.
fn violations(file: &str, text: &str) -> Vec<String> {
    if let Some(path) = ["crate::{", "super::super::"].iter().find(|path| text.contains(**path)) {
        return vec![format!("src/{file} has {path}: write crate::<room>")];
    }
    let (room, _) = file.split_once('/').unwrap_or((file, ""));
    let forbidden =
        imports(text).into_iter().filter(|other| *other != room && !may_import(room, other));
    forbidden.map(|other| format!("src/{file} imports {other}")).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the path of each source file below `src/`, and its text.
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let relative = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    found.into_iter().map(relative).collect()
}

#[test]
fn rooms_import_only_rooms_below_them() {
    let files = files();
    assert!(files.len() > 80, "{} files", files.len());
    let rooms = files.iter().filter(|(file, _)| file.contains('/'));
    let found: Vec<_> = rooms.flat_map(|(file, text)| violations(file, text)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn each_room_is_on_a_floor() {
    let files = files();
    let rooms: BTreeSet<_> = files.iter().filter_map(|(file, _)| file.split_once('/')).collect();
    for (room, _) in rooms {
        assert!(room == CLIENT || floor(room).is_some(), "{room} is not on a floor");
    }
}

#[test]
fn an_import_of_a_higher_room_is_found() {
    let table = [
        ("domain/mark.rs", "use crate::store::Store;", true),
        ("store/mod.rs", "use crate::domain::Mark;", false),
        ("store/redis/mod.rs", "use crate::store::Store;", false),
        ("store/mod.rs", "fn f() { crate::identity::jwt::issue() }", true),
        ("identity/mod.rs", "use crate::store::Store;", true),
        ("edge/mod.rs", "use crate::ops::health;", true),
        ("service/mod.rs", "use crate::client::connect;", true),
        ("cli/mod.rs", "use crate::client::connect;", false),
        ("client/mod.rs", "use crate::domain::UserId;", false),
        ("client/mod.rs", "use crate::files::read;", true),
        ("domain/mark.rs", "use crate::{store::Store};", true),
        ("domain/a/b.rs", "use super::super::super::store::Store;", true),
    ];
    for (file, text, forbidden) in table {
        assert_eq!(!violations(file, text).is_empty(), forbidden, "{file}: {text}");
    }
}
