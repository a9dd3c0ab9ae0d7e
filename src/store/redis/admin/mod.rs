//! Commands of operators on a Redis: changes of its layout, and of the cursors and whatever else it holds
//! of a reader (`docs/production.md`).

use std::fmt;

use redis::RedisError;

use super::connection::layout::{DOWNGRADING, LayoutMismatch};
use super::errors::classify;
use super::keys::Partition;
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
            Self::Layout(LayoutMismatch::Other { version, partitions }) => {
                if version.is_empty() && partitions.is_empty() {
                    return f.write_str(
                        "this Redis has no layout of markread: start serve once, or correct --redis-url",
                    );
                }
                write!(
                    f,
                    "Redis has layout version {version:?} in {partitions:?} partitions, this command \
                     needs version \"1\" or \"2\" in {:?}",
                    Partition::COUNT
                )?;
                if version == DOWNGRADING {
                    f.write_str(": run markread admin downgrade-layout again to complete it")?;
                }
                Ok(())
            }
            Self::Layout(mismatch @ LayoutMismatch::NoKey) => mismatch.fmt(f),
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
