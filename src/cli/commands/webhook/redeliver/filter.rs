//! Which dead letters are sent.

use std::time::Duration;

use crate::domain::{DeliveryId, UserId};
use crate::store::relay::LetterId;

/// The letters that are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct LetterFilter {
    /// The greatest age of their event.
    pub since: Option<Duration>,
    /// The user that they are for.
    pub user: Option<UserId>,
    /// The only one.
    pub id: Option<DeliveryId>,
}

impl LetterFilter {
    /// Returns whether it excludes letters of which it is not known whom they are for.
    pub(super) fn is_for_deliveries(&self) -> bool {
        self.user.is_some() || self.id.is_some()
    }

    pub(super) fn accepts(&self, id: &LetterId, now_ms: u64) -> bool {
        let entry = match id {
            LetterId::Delivery(id) => {
                if self.user.is_some_and(|user| user != id.for_user)
                    || self.id.is_some_and(|wanted| wanted != *id)
                {
                    return false;
                }
                id.entry
            }
            LetterId::Entry(..) if self.is_for_deliveries() => return false,
            LetterId::Entry(_, entry) => *entry,
        };
        self.since.is_none_or(|age| {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            entry.ms >= now_ms.saturating_sub(age_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    fn letter(entry: &str, for_user: u64) -> DeliveryId {
        DeliveryId { partition: 0, entry: entry.parse().unwrap(), for_user: user(for_user) }
    }

    #[test]
    fn a_filter_accepts_what_fits_all_of_it() {
        let id = letter("5000-1", 7);
        let (delivery, entry) = (LetterId::Delivery(id), LetterId::Entry(0, id.entry));
        let since = |ms| Some(Duration::from_millis(ms));
        let none = LetterFilter::default();
        let table = [
            (none, true, true),
            (LetterFilter { since: since(1000), ..none }, true, true),
            (LetterFilter { since: since(999), ..none }, false, false),
            (LetterFilter { since: Some(Duration::MAX), ..none }, true, true),
            (LetterFilter { user: Some(user(7)), ..none }, true, false),
            (LetterFilter { user: Some(user(8)), ..none }, false, false),
            (LetterFilter { id: Some(id), ..none }, true, false),
            (LetterFilter { id: Some(letter("5000-2", 7)), ..none }, false, false),
            (LetterFilter { id: Some(letter("5000-1", 8)), ..none }, false, false),
            (LetterFilter { id: Some(id), user: Some(user(8)), ..none }, false, false),
            (LetterFilter { id: Some(id), since: since(999), ..none }, false, false),
        ];
        for (filter, of_delivery, of_entry) in table {
            assert_eq!(filter.accepts(&delivery, 6000), of_delivery, "{filter:?}");
            assert_eq!(filter.accepts(&entry, 6000), of_entry, "{filter:?}");
        }
    }
}
