//! The read side of the domain: who has read what of whom.

use std::time::Duration;

use crate::domain::{Quota, ReadCursor, UserId};

/// A conversation, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Whose cursor it has.
    pub reader: UserId,
    /// The other user.
    pub recipient: UserId,
}

impl Conversation {
    /// The same as the other user sees it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { reader: self.recipient, recipient: self.reader }
    }
}

/// What the two users of a conversation have read. A cursor that was never set is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The other user.
    pub recipient: UserId,
    /// What the caller has read of the other's messages.
    pub mine: Option<ReadCursor>,
    /// What the other has read of the caller's.
    pub theirs: Option<ReadCursor>,
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    /// It was done.
    Served {
        /// What was read.
        read: T,
        /// The quota of reads after it.
        quota: Quota,
    },
    /// The caller's quota of reads is used up; nothing was read.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// How long until the window ends.
        retry_after: Duration,
    },
}

/// Some of a reader's cursors, in the store's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorPage {
    /// At most as many as were asked for.
    pub cursors: Vec<ReadCursor>,
    /// Whether cursors follow behind these.
    pub more: bool,
}
