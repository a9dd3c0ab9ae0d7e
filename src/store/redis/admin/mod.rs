//! Commands of operators on a Redis: changes of its layout, and of the cursors and whatever else it holds
//! of a reader (`docs/production.md`).

use std::fmt;

use redis::RedisError;

use super::connection::layout::LayoutMismatch;
use super::errors::classify;
use crate::store::StoreError;

mod connection;
mod cursors;
mod erase;
mod events;
mod layout_change;
mod letters;
mod migration;
pub(super) mod put;
mod store;

pub use self::cursors::{CursorAdmin, ReaderProblem};
pub use self::erase::{CursorErasure, Erasure, KeyProgress, RecipientErasure};
pub use self::events::EventErasure;
pub use self::layout_change::{LayoutAdmin, Progress};
pub use self::migration::{Migration, MoveGoal, MoveProgress, MoveReport, MoveSummary};
pub use self::put::{PutError, PutOutcome, PutReply, PutRule};
pub use self::store::{FoundReaders, StoreAdmin, StoreScan};

/// Why a command was not done, or not completed.
#[derive(Debug)]
pub enum AdminError {
    /// The layout is not one that the command works on.
    Layout(LayoutMismatch),
    /// Redis could not be reached, or refused.
    Failed(String),
    /// The same of the Redis that cursors are moved to.
    Destination(Box<AdminError>),
    /// The same after a move has shut the old servers out.
    ShutOut(Box<AdminError>),
}

impl AdminError {
    /// Returns whether a layout is not one that the command works on.
    pub fn is_layout(&self) -> bool {
        match self {
            Self::Layout(_) => true,
            Self::Failed(_) => false,
            Self::Destination(error) | Self::ShutOut(error) => error.is_layout(),
        }
    }

    fn at_destination(self) -> Self {
        match self {
            Self::Destination(_) => self,
            error => Self::Destination(Box::new(error)),
        }
    }

    fn of_destination(error: impl Into<Self>) -> Self {
        error.into().at_destination()
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(LayoutMismatch::Other { version, partitions, .. })
                if version.is_empty() && partitions.is_empty() =>
            {
                f.write_str(
                    "this Redis has no layout of markread: start serve once, or correct --redis-url",
                )
            }
            Self::Layout(mismatch) => mismatch.write_for("this command", f),
            Self::Failed(problem) => f.write_str(&printable(problem)),
            Self::Destination(error) => {
                write!(f, "the destination: {}", name_destination_flags(&error.to_string()))
            }
            Self::ShutOut(error) => write!(
                f,
                "{error} (the servers of --redis-url are shut out: run the command again with --finish \
                 to go on, or with --undo alone to let them in)"
            ),
        }
    }
}

/// Longest text of an error, in bytes.
const TEXT_MAX: usize = 500;

/// Longest part of it that Redis has said.
const REPLY_MAX: usize = 200;

/// Returns a text without what a terminal would obey: parts of it are Redis's, or a Sentinel's.
pub fn printable(text: &str) -> String {
    let escape = |character: char| match character {
        // They are harmless, and own texts have them.
        '"' | '\'' | '\\' => character.to_string(),
        _ => character.escape_debug().to_string(),
    };
    cut(&text.chars().map(escape).collect::<String>(), TEXT_MAX)
}

fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Replaces the names of flags in a text by those of the Redis that cursors are moved to.
pub fn name_destination_flags(text: &str) -> String {
    let names = [
        ("--redis-url", "--to"),
        ("--redis-mode", "--to-mode"),
        ("--partitions", "--to-partitions"),
        ("--redis-sentinel-master", "--to-sentinel-master"),
        ("--redis-", "--to-redis-"),
    ];
    names.iter().fold(text.to_owned(), |text, (of_serve, of_destination)| {
        text.replace(of_serve, of_destination)
    })
}

impl From<RedisError> for AdminError {
    fn from(error: RedisError) -> Self {
        classify(error).into()
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Failed(cut(&error.to_string(), REPLY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_is_escaped_and_cut() {
        let reply = format!("ERR \u{1b}[2J \"it's\" \u{202e}\n{}", "é".repeat(300));
        let error = AdminError::from(StoreError::corrupt(reply)).at_destination();
        let text = error.to_string();
        assert!(text.contains("ERR \\u{1b}[2J \"it's\" \\u{202e}\\n"), "{text}");
        assert!(!text.chars().any(char::is_control) && text.len() < 300, "{text}");
        let own = AdminError::Failed("x".repeat(2 * TEXT_MAX)).to_string();
        assert_eq!(own.len(), TEXT_MAX + "…".len());
    }
}
