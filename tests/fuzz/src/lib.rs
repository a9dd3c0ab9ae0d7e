//! Fuzz targets: each gives bytes from outside to a parser of markread, and panics where a property does not
//! hold. `tests/fuzz/run` looks for such bytes under libFuzzer; `cargo test -p markread-fuzz` tries the
//! corpora and some thousand mutations of them.
//!
//! A property is more than "it does not panic": what is parsed is written again as it was, a second
//! implementation agrees, what was altered is refused, however bytes are cut the result is the same, and
//! texts for logs have a bound and no control characters.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a target panics where a property does not hold"
)]

pub mod input;
pub mod mutation;
mod targets;

pub use self::targets::{TARGETS, Target};
