//! Marks: the command, its outcomes, and the rule that a cursor only moves forward.
//!
//! The rule has twins in the scripts `single_marks.lua` and `mark_read.lua` of
//! `src/store/redis/scripts`; the property test in `tests/it/twins.rs` compares them.

use std::time::Duration;

use super::field::{BadField, FieldProblem, LAST_READ_EVENT_ID, RECIPIENT_ID};
use super::ids::{MessageId, UserId};
use super::quota::Quota;
use super::refusal::Refusal;

/// A command: "I have read up to this message of this person".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The reader: the authenticated caller.
    pub reader: UserId,
    /// The other user of the conversation, who gets the read receipt.
    pub recipient: UserId,
    /// The most recent message that the reader has read.
    pub last_read_event_id: MessageId,
}

impl Mark {
    /// Creates a command from a request's parameters.
    ///
    /// # Errors
    ///
    /// Every parameter that is invalid, `last_read_event_id` first.
    pub fn new(
        reader: UserId,
        last_read_event_id: Result<MessageId, FieldProblem>,
        recipient: Result<UserId, FieldProblem>,
    ) -> Result<Self, Vec<BadField>> {
        match (last_read_event_id, recipient) {
            (Ok(last_read_event_id), Ok(recipient)) => {
                Ok(Self { reader, recipient, last_read_event_id })
            }
            (event, recipient) => {
                let event = event.err().map(|problem| BadField::new(LAST_READ_EVENT_ID, problem));
                let recipient = recipient.err().map(|problem| BadField::new(RECIPIENT_ID, problem));
                Err(event.into_iter().chain(recipient).collect())
            }
        }
    }
}

/// The greatest time, in milliseconds since 1970: the end of the year 9999, which is the end of protobuf's
/// `Timestamp` and of RFC 3339.
pub const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// How far a reader has read a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadCursor {
    /// The other user of the conversation, seen from the cursor's reader.
    pub recipient: UserId,
    /// The greatest message ID that was read.
    pub last_read_event_id: MessageId,
    /// When the cursor last advanced, in milliseconds since 1970.
    pub read_at_ms: u64,
}

/// Outcome of a valid command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cursor moved forward to the command's message, and one event was published.
    Advanced {
        /// The cursor after the step.
        cursor: ReadCursor,
        /// The quota after the step.
        quota: Quota,
    },
    /// The cursor was at or ahead of the message; only the quota was written.
    Unchanged {
        /// The cursor, unmoved.
        cursor: ReadCursor,
        /// The quota after the step.
        quota: Quota,
    },
    /// The reader's quota is used up, and nothing changed.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// Time until the window ends.
        retry_after: Duration,
    },
}

/// A mark that was served: its reader had quota left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedMark {
    /// The cursor after the step.
    pub cursor: ReadCursor,
    /// Whether the mark moved it.
    pub advanced: bool,
    /// The quota after the step.
    pub quota: Quota,
}

impl Outcome {
    /// Returns the mark if it was served.
    ///
    /// # Errors
    ///
    /// [`Refusal::OverQuota`].
    pub fn served(self) -> Result<ServedMark, Refusal> {
        match self {
            Self::Advanced { cursor, quota } => Ok(ServedMark { cursor, advanced: true, quota }),
            Self::Unchanged { cursor, quota } => Ok(ServedMark { cursor, advanced: false, quota }),
            Self::OverQuota { quota, retry_after } => {
                Err(Refusal::OverQuota { quota, retry_after })
            }
        }
    }

    /// The quota after the step.
    pub fn quota(&self) -> Quota {
        match *self {
            Self::Advanced { quota, .. }
            | Self::Unchanged { quota, .. }
            | Self::OverQuota { quota, .. } => quota,
        }
    }
}

/// Returns whether a cursor moves to a message: only forward. A conversation that was never read has
/// no cursor, and every message is ahead of that.
pub fn advances(cursor: Option<MessageId>, to: MessageId) -> bool {
    cursor.is_none_or(|cursor| to > cursor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MAX_ID;

    #[test]
    fn a_cursor_advances_to_greater_ids_only() {
        let id = |id: u64| MessageId::try_from(id).unwrap();
        let table = [
            (None, 1, true),
            (None, MAX_ID, true),
            (Some(1), 1, false),
            (Some(1), 2, true),
            (Some(2), 1, false),
            (Some(9), 10, true),
            (Some(10), 9, false),
            (Some(8_754_578_330_382_663_742), 8_754_578_330_382_663_743, true),
            (Some(8_754_578_330_382_663_743), 8_754_578_330_382_663_742, false),
            (Some(999_999_999_999_999_999), 1_000_000_000_000_000_000, true),
            (Some(MAX_ID), MAX_ID, false),
        ];
        for (cursor, to, expected) in table {
            assert_eq!(advances(cursor.map(id), id(to)), expected, "{cursor:?} to {to}");
        }
    }
}
