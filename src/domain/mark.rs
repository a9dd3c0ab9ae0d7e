//! The domain: the command, its outcomes, the quota, and the rule that a cursor advances.
//!
//! Nothing here knows gRPC, HTTP or Redis. The rule has a twin in
//! `src/store/redis/mark_read.lua`; the property test in `tests/it/twins.rs` holds them together.

use std::fmt;
use std::time::Duration;

use crate::domain::{InvalidEntryId, InvalidId, MAX_ID, MessageId, UserId};

/// A command: the reader has read up to this message of this conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who has read: the authenticated caller.
    pub reader: UserId,
    /// The other user of the conversation, who gets the read receipt.
    pub recipient: UserId,
    /// The most recent message that was read.
    pub last_read_event_id: MessageId,
}

impl Mark {
    /// The command that a request's parameters make, or every one of them that is wrong.
    ///
    /// # Errors
    ///
    /// The bad fields, in the order of the contract's parameters.
    pub fn of(
        reader: UserId,
        last_read_event_id: Result<MessageId, FieldProblem>,
        recipient: Result<UserId, FieldProblem>,
    ) -> Result<Self, Vec<BadField>> {
        match (last_read_event_id, recipient) {
            (Ok(last_read_event_id), Ok(recipient)) => {
                Ok(Self { reader, recipient, last_read_event_id })
            }
            (event, recipient) => {
                let event = event.err().map(|problem| (LAST_READ_EVENT_ID, problem));
                let recipient = recipient.err().map(|problem| (RECIPIENT_ID, problem));
                let bad = event.into_iter().chain(recipient);
                Err(bad.map(|(name, problem)| BadField { name, problem }).collect())
            }
        }
    }
}

/// The name of the parameter that says up to which message was read.
pub const LAST_READ_EVENT_ID: &str = "last_read_event_id";

/// The name of the parameter that says whose messages were read.
pub const RECIPIENT_ID: &str = "recipient_id";

/// A parameter that is missing or invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadField {
    /// The field's name on the wire.
    pub name: &'static str,
    /// What is wrong with it.
    pub problem: FieldProblem,
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.problem)
    }
}

/// What is wrong with a parameter. The texts fit behind its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// It is no ID, or absent.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// It is given more than once in one place.
    #[error("is given more than once")]
    Repeated,
    /// It is given in the body and in the query, with different values.
    #[error("differs between the body and the query")]
    Conflicting,
    /// A list of no items or of too many.
    #[error("takes 1 to {BATCH_MAX_ITEMS} items")]
    ItemCount,
    /// A page that is too large, or of less than nothing.
    #[error("is out of range: it takes 0 to {PAGE_MAX_CURSORS}")]
    PageSize,
    /// A token that was not given to this reader, or not like this.
    #[error("is no token that this reader was given")]
    PageToken,
    /// No place in the stream.
    #[error(transparent)]
    EntryId(#[from] InvalidEntryId),
    /// A place in the stream that cannot be yet.
    #[error("is more than 60 s ahead of the store's clock")]
    Ahead,
}

/// The most items of a batch.
pub const BATCH_MAX_ITEMS: usize = 500;

/// The most cursors of a page.
pub const PAGE_MAX_CURSORS: usize = 1000;

impl FieldProblem {
    /// The values that stand in its text, by name.
    pub fn bounds(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Id(_) => vec![("min_id", "1".to_owned()), ("max_id", MAX_ID.to_string())],
            Self::ItemCount => {
                vec![("min_items", "1".to_owned()), ("max_items", BATCH_MAX_ITEMS.to_string())]
            }
            Self::PageSize => vec![
                ("min_page_size", "0".to_owned()),
                ("max_page_size", PAGE_MAX_CURSORS.to_string()),
            ],
            Self::Ahead => vec![("max_ahead_seconds", "60".to_owned())],
            Self::Repeated | Self::Conflicting | Self::PageToken | Self::EntryId(_) => Vec::new(),
        }
    }

    /// Whether the parameter is not there at all.
    pub fn is_missing(self) -> bool {
        self == Self::Id(InvalidId::Missing)
    }
}

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

/// What a valid command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cursor moved forward to the command's message, and one event was published.
    Advanced {
        /// The cursor after the step.
        cursor: ReadCursor,
        /// The quota after the step.
        quota: Quota,
    },
    /// The cursor was there or further already; nothing was written but the quota.
    Unchanged {
        /// The cursor, which did not move.
        cursor: ReadCursor,
        /// The quota after the step.
        quota: Quota,
    },
    /// The reader's quota is used up; nothing changed.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// How long until the window ends.
        retry_after: Duration,
    },
}

impl Outcome {
    /// The quota after the step.
    pub fn quota(&self) -> Quota {
        match *self {
            Self::Advanced { quota, .. }
            | Self::Unchanged { quota, .. }
            | Self::OverQuota { quota, .. } => quota,
        }
    }
}

/// The rate limit of each reader: CONTRACT section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls served in a window.
    pub calls: u64,
    /// The window's length in milliseconds.
    pub window_ms: u64,
}

impl RateLimit {
    /// The quota of a window with so many calls used, which ends then.
    pub fn quota(self, used: u64, reset_at_ms: u64) -> Quota {
        Quota { limit: self.calls, remaining: self.calls.saturating_sub(used), reset_at_ms }
    }
}

/// What is left to a reader of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls served in a window.
    pub limit: u64,
    /// Calls left in this window.
    pub remaining: u64,
    /// When the window ends, in milliseconds since 1970 on the store's clock.
    pub reset_at_ms: u64,
}

impl Quota {
    /// When the window ends in Unix seconds, rounded up: a caller that waits until then is served.
    pub fn reset_at_seconds(&self) -> u64 {
        self.reset_at_ms.div_ceil(1000)
    }
}

/// The rule: a cursor moves forward, or it does not move. A conversation that was never read has
/// no cursor, which every message is ahead of.
pub fn advances(cursor: Option<MessageId>, to: MessageId) -> bool {
    cursor.is_none_or(|cursor| to > cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_advances_to_greater_ids_only() {
        let id = |id: u64| MessageId::try_from(id).unwrap();
        let table = [
            (None, 1, true),
            (None, crate::domain::MAX_ID, true),
            (Some(1), 1, false),
            (Some(1), 2, true),
            (Some(2), 1, false),
            (Some(9), 10, true),
            (Some(10), 9, false),
            (Some(8_754_578_330_382_663_742), 8_754_578_330_382_663_743, true),
            (Some(8_754_578_330_382_663_743), 8_754_578_330_382_663_742, false),
            (Some(999_999_999_999_999_999), 1_000_000_000_000_000_000, true),
            (Some(crate::domain::MAX_ID), crate::domain::MAX_ID, false),
        ];
        for (cursor, to, expected) in table {
            assert_eq!(advances(cursor.map(id), id(to)), expected, "{cursor:?} to {to}");
        }
    }

    #[test]
    fn a_reset_is_rounded_up_to_the_second() {
        let quota = |reset_at_ms| Quota { limit: 1, remaining: 0, reset_at_ms };
        assert_eq!(quota(1_000).reset_at_seconds(), 1);
        assert_eq!(quota(1_001).reset_at_seconds(), 2);
        assert_eq!(quota(1_999).reset_at_seconds(), 2);
    }
}
