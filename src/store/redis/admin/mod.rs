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
mod put;

pub use self::connection::Readers;
pub use self::cursors::{CursorAdmin, ReaderProblem};
pub use self::erase::{CursorErasure, Erasure, KeyProgress, RecipientErasure};
pub use self::events::EventErasure;
pub use self::layout_change::{LayoutAdmin, Progress};
pub use self::put::{PutError, PutOutcome, PutReply, PutRule};

/// Why a command was not done, or not completed.
#[derive(Debug)]
pub enum AdminError {
    /// The layout is not one that the command works on.
    Layout(LayoutMismatch),
    /// Redis could not be reached, or refused.
    Failed(String),
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
            Self::Failed(problem) => f.write_str(problem),
        }
    }
}

impl From<RedisError> for AdminError {
    fn from(error: RedisError) -> Self {
        Self::Failed(classify(error).to_string())
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}
