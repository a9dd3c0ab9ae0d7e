//! The read side: how far the users of a conversation have read.

use std::time::Duration;

use super::{Quota, ReadCursor, UserId};

/// A conversation, as seen by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The user whose cursor it has.
    pub reader: UserId,
    /// The other user.
    pub recipient: UserId,
}

impl Conversation {
    /// Returns the conversation as the other user sees it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { reader: self.recipient, recipient: self.reader }
    }
}

/// How far the two users of a conversation have read. A cursor that was never set is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The other user.
    pub recipient: UserId,
    /// How far the caller has read the other user's messages.
    pub mine: Option<ReadCursor>,
    /// How far the other user has read the caller's messages.
    pub theirs: Option<ReadCursor>,
}

/// Outcome of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    /// The read was served.
    Served {
        /// The result.
        read: T,
        /// The read quota after it.
        quota: Quota,
    },
    /// The caller's read quota is used up, and nothing was read.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// Time until the window ends.
        retry_after: Duration,
    },
}

impl<T> ReadOutcome<T> {
    /// Returns it without the result.
    pub fn without_result(self) -> ReadOutcome<()> {
        match self {
            Self::Served { quota, .. } => ReadOutcome::Served { read: (), quota },
            Self::OverQuota { quota, retry_after } => ReadOutcome::OverQuota { quota, retry_after },
        }
    }
}

/// Some of a reader's cursors, in the store's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorPage {
    /// At most as many as requested.
    pub cursors: Vec<ReadCursor>,
    /// True if more cursors follow.
    pub more: bool,
}
