//! Commands other than `serve` and `relay`.

use std::io::{Write, stderr};

use crate::store::redis::printable;

pub(super) mod admin;
pub(super) mod client;
pub(super) mod healthcheck;
mod interrupt;
pub(super) mod lines;
mod output;
pub(super) mod token;
pub(super) mod webhook;

/// Says something that is not the result on standard error, where nobody may read it.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{}", printable(line));
}

/// Returns a number with its noun: "1 cursor", "2 cursors".
fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
