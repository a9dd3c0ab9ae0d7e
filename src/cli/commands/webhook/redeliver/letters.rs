//! What is sent of a dead letter, and the counts of what was.

use std::fmt::Write;

use crate::cli::commands::counted;
use crate::domain::{Event, Mark, Position, UserId};
use crate::relay::delivery_body;
use crate::relay::receiver::Delivery;
use crate::store::relay::{DeadLetter, LetterId};

/// A conversation as one of its users gets it: its letters are sent in order.
pub(super) type Lane = (UserId, UserId, UserId);

/// Returns what is sent, the same as at first; `None` if the letter has no event.
pub(super) fn delivery(letter: DeadLetter) -> Option<(Delivery, Lane)> {
    let LetterId::Delivery(id) = letter.id else { return None };
    let payload = letter.payload?;
    let text = std::str::from_utf8(&payload).ok()?;
    let Mark { reader, recipient, .. } = Event::parse(Position::from(id.entry), text)?.mark;
    let body = delivery_body(&payload, id.for_user)?;
    Some((Delivery { id, body }, (reader, recipient, id.for_user)))
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) failed: u64,
    /// Letters behind one of their conversation that failed.
    pub(super) held_back: u64,
    /// Letters without an event.
    pub(super) skipped: u64,
}

impl Counts {
    pub(super) fn describe(self) -> String {
        let Self { delivered, failed, held_back, skipped } = self;
        let mut text = format!("{} delivered", counted(delivered, "dead letter"));
        let others = [
            (failed, "failed"),
            (held_back, "not sent, behind one of their conversation that failed"),
            (skipped, "without an event skipped"),
        ];
        for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {number} {what}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeliveryId;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    fn letter(entry: &str, for_user: u64) -> DeliveryId {
        DeliveryId { partition: 0, entry: entry.parse().unwrap(), for_user: user(for_user) }
    }

    #[test]
    fn a_letter_is_sent_as_it_was_at_first() {
        let payload = r#"{"direct_message_mark_read_events":[{"created_timestamp":"5","sender_id":"8","last_read_event_id":"9","target":{"recipient_id":"7"}}],"users":{}}"#;
        let id = letter("5-0", 7);
        let stored = |id, payload: Option<&str>| DeadLetter {
            id,
            payload: payload.map(|payload| payload.to_owned().into()),
            reason: "max_attempts".to_owned(),
            attempts: 20,
            last_status: Some(500),
            last_error: None,
        };
        let (sent, lane) = delivery(stored(LetterId::Delivery(id), Some(payload))).unwrap();
        assert_eq!(sent.body, payload.replacen('{', r#"{"for_user_id":"7","#, 1));
        assert_eq!((sent.id, lane), (id, (user(8), user(7), user(7))));
        for letter in [
            stored(LetterId::Entry(0, id.entry), Some(payload)),
            stored(LetterId::Delivery(id), None),
            stored(LetterId::Delivery(id), Some("{}")),
        ] {
            assert!(delivery(letter.clone()).is_none(), "{letter:?}");
        }
    }

    #[test]
    fn counts_name_only_what_there_was() {
        let counts = Counts { delivered: 1, ..Counts::default() };
        assert_eq!(counts.describe(), "1 dead letter delivered");
        let counts = Counts { delivered: 0, failed: 2, held_back: 3, skipped: 4 };
        assert_eq!(
            counts.describe(),
            "0 dead letters delivered, 2 failed, 3 not sent, behind one of their conversation that \
             failed, 4 without an event skipped"
        );
    }
}
