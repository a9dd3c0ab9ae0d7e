//! Positions in the log of a partition, from which a watcher resumes.

use std::fmt;
use std::str::FromStr;

use super::entry_id::EntryId;

/// A position in the event log of one partition: after one entry and before the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(EntryId);

impl Position {
    /// Before every entry: a watcher that begins here receives all events that are left.
    pub const START: Self = Self(EntryId::ZERO);

    /// The end of a log that was never written to and never lost anything. It differs from
    /// [`Self::START`], so that a watcher that saw an empty log gets a gap when entries are lost
    /// afterwards.
    pub const EMPTY: Self = Self(EntryId { ms: 0, count: 1 });

    /// Returns the ID of the entry that it follows.
    pub fn entry(self) -> EntryId {
        self.0
    }
}

impl From<EntryId> for Position {
    fn from(entry: EntryId) -> Self {
        Self(entry)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the ID of an event or a heartbeat")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        text.parse().map(Self).map_err(|_| InvalidPosition)
    }
}
