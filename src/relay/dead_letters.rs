//! Dead letters and their reasons.

use bytes::Bytes;

use super::lanes::{Item, LaneKey};
use crate::domain::{DeliveryId, EntryId};
use crate::store::relay::{DeadLetter, LetterId};

/// Why an event is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It was attempted as often as `--max-attempts` allows.
    MaxAttempts,
    /// It is older than `--max-age`.
    MaxAge,
    /// The entry has no field `payload`.
    NoPayload,
    /// The payload is not UTF-8.
    NotUtf8,
    /// The payload is not a mark-read event.
    InvalidPayload,
    /// The entry is larger than any event.
    TooLarge,
}

impl Reason {
    /// All reasons with the words that are stored, in the order of the enum.
    const ALL: [(Self, &'static str); 6] = [
        (Self::MaxAttempts, "max_attempts"),
        (Self::MaxAge, "max_age"),
        (Self::NoPayload, "no_payload"),
        (Self::NotUtf8, "not_utf8"),
        (Self::InvalidPayload, "invalid_payload"),
        (Self::TooLarge, "too_large"),
    ];

    /// Returns the words of all reasons.
    pub(super) fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(|(_, word)| word)
    }

    /// Returns the word that is stored, and the label of metrics.
    pub(super) fn word(self) -> &'static str {
        let known = Self::ALL.iter().find(|(known, _)| *known == self);
        known.map_or("", |(_, word)| word)
    }
}

/// Builds the letter of a delivery.
pub(super) fn of_delivery(
    partition: usize,
    key: LaneKey,
    item: &Item,
    reason: Reason,
) -> DeadLetter {
    let id = DeliveryId { partition, entry: item.entry, for_user: key.for_user };
    DeadLetter {
        id: LetterId::Delivery(id),
        payload: Some(item.payload.clone()),
        reason: reason.word().to_owned(),
        attempts: item.attempts,
        last_status: item.failure.as_ref().and_then(|failure| failure.status),
        last_error: item.failure.as_ref().map(|failure| failure.detail.clone()),
    }
}

/// Builds the letter of an entry that has no event.
pub(super) fn of_entry(
    partition: usize,
    entry: EntryId,
    payload: Option<Bytes>,
    reason: Reason,
) -> DeadLetter {
    DeadLetter {
        id: LetterId::Entry(partition, entry),
        payload,
        reason: reason.word().to_owned(),
        attempts: 0,
        last_status: None,
        last_error: None,
    }
}
