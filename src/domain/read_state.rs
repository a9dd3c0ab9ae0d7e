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
    /// At most as many as requested. Fewer, or none, do not mean that no more follow.
    pub cursors: Vec<ReadCursor>,
    /// Where the next page begins, if more cursors may follow.
    pub next: Option<ListPosition>,
}

/// An order in which a reader's cursors are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOrder {
    /// The embedded store's, or that of the plain placement: it needs nothing but the recipient.
    Plain,
    /// That of the keyed placement.
    Keyed,
}

/// A position in the list of a reader's cursors. What follows it is neither before `place` nor, where
/// they are set, at or before `after` and `listed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPosition {
    /// The order of `after` and `place`.
    pub order: ListOrder,
    /// The last recipient before the position.
    pub after: Option<UserId>,
    /// The first place, of 31 bits.
    pub place: u32,
    /// How far a large hash at `place` has been read.
    pub part: Option<HashPart>,
    /// In a list that was begun in the plain order and goes on in another: the plain place and the
    /// recipient up to which it was listed before.
    pub listed: Option<(u32, UserId)>,
}

/// The part of a large hash that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPart {
    /// The number of the reader's buckets. If it has changed, the hash is read from its beginning.
    pub buckets: u64,
    /// The cursor of HSCAN.
    pub scan: u64,
    /// The recipient up to which its next step was read.
    pub until: Option<UserId>,
}

impl ListPosition {
    /// Returns the position before everything.
    pub fn beginning(order: ListOrder) -> Self {
        Self { order, after: None, place: 0, part: None, listed: None }
    }

    /// Returns the position after a recipient.
    pub fn after(order: ListOrder, recipient: UserId) -> Self {
        Self { after: Some(recipient), ..Self::beginning(order) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    #[test]
    fn the_other_user_sees_the_conversation_reversed() {
        let (one, other) = (user(1), user(2));
        let conversation = Conversation { reader: one, recipient: other };
        assert_eq!(conversation.reversed(), Conversation { reader: other, recipient: one });
        assert_eq!(conversation.reversed().reversed(), conversation);
    }

    #[test]
    fn a_position_after_a_recipient_has_nothing_else() {
        for order in [ListOrder::Plain, ListOrder::Keyed] {
            let beginning = ListPosition::beginning(order);
            let after = ListPosition::after(order, user(7));
            assert_eq!((after.order, after.after), (order, Some(user(7))));
            assert_eq!(ListPosition { after: None, ..after }, beginning);
            assert_eq!((beginning.place, beginning.part, beginning.listed), (0, None, None));
        }
    }

    #[test]
    fn an_outcome_without_its_result_keeps_the_quota() {
        let quota = Quota { limit: 2, remaining: 1, reset_at_ms: 3 };
        let served = ReadOutcome::Served { read: "result", quota };
        assert_eq!(served.without_result(), ReadOutcome::Served { read: (), quota });
        let retry_after = Duration::from_secs(1);
        let denied = ReadOutcome::<&str>::OverQuota { quota, retry_after };
        assert_eq!(denied.without_result(), ReadOutcome::OverQuota { quota, retry_after });
    }
}
