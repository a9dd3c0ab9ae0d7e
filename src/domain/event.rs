//! The mark-read event: the payload of Twitter's webhook (`docs/contract.md`, "The event").
//!
//! The Redis scripts write the same JSON (`single_marks.lua` and `mark_read.lua`); the property test
//! in `tests/it/twins.rs` compares the bytes.

use serde::Deserialize;

use super::{Mark, Position, TIME_MAX_MS, UserId, Users};

/// Returns the payload of a mark that advanced its cursor at `created_ms`, in milliseconds since 1970.
///
/// IDs and times are strings of digits, and user objects are JSON, so nothing needs escaping. When
/// reader and recipient are the same user, `users` has that user once.
pub fn event_payload(mark: &Mark, created_ms: u64, users: &Users) -> String {
    let Mark { reader, recipient, last_read_event_id } = mark;
    let user = |id: UserId| match users.get(id) {
        Some(object) => format!(r#""{id}":{}"#, object.as_str()),
        None => format!(r#""{id}":{{"id":"{id}"}}"#),
    };
    let users = if reader == recipient {
        user(*reader)
    } else {
        format!("{},{}", user(*reader), user(*recipient))
    };
    format!(
        r#"{{"direct_message_mark_read_events":[{{"created_timestamp":"{created_ms}","sender_id":"{reader}","last_read_event_id":"{last_read_event_id}","target":{{"recipient_id":"{recipient}"}}}}],"users":{{{users}}}}}"#
    )
}

/// An event, as watchers receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its position in the event log, from which a watcher resumes.
    pub position: Position,
    /// The mark that advanced the cursor.
    pub mark: Mark,
    /// When the cursor advanced, in milliseconds since 1970.
    pub created_ms: u64,
}

impl Event {
    /// Parses the payload of an entry. Returns `None` if another program wrote something else.
    pub fn parse(position: Position, payload: &str) -> Option<Self> {
        let Payload { direct_message_mark_read_events: [event] } =
            serde_json::from_str(payload).ok()?;
        let mark = Mark {
            reader: event.sender_id.parse().ok()?,
            recipient: event.target.recipient_id.parse().ok()?,
            last_read_event_id: event.last_read_event_id.parse().ok()?,
        };
        let created_ms = event.created_timestamp.parse().ok().filter(|ms| *ms <= TIME_MAX_MS)?;
        Some(Self { position, mark, created_ms })
    }
}

/// The members of a payload that are read.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    direct_message_mark_read_events: [PayloadEvent<'a>; 1],
}

#[derive(Deserialize)]
struct PayloadEvent<'a> {
    created_timestamp: &'a str,
    sender_id: &'a str,
    last_read_event_id: &'a str,
    #[serde(borrow)]
    target: PayloadTarget<'a>,
}

#[derive(Deserialize)]
struct PayloadTarget<'a> {
    recipient_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EntryId;
    use crate::domain::UserObject;

    fn mark(reader: u64, recipient: u64) -> Mark {
        Mark {
            reader: reader.try_into().unwrap(),
            recipient: recipient.try_into().unwrap(),
            last_read_event_id: 8_754_578_330_382_663_743.try_into().unwrap(),
        }
    }

    #[test]
    fn the_payload_is_twitters_json() {
        assert_eq!(
            event_payload(
                &mark(2_244_994_945, 3_805_104_374),
                1_518_127_183_443,
                &Users::default()
            ),
            r#"{"direct_message_mark_read_events":[{"created_timestamp":"1518127183443","sender_id":"2244994945","last_read_event_id":"8754578330382663743","target":{"recipient_id":"3805104374"}}],"users":{"2244994945":{"id":"2244994945"},"3805104374":{"id":"3805104374"}}}"#
        );
    }

    #[test]
    fn a_reader_who_is_the_recipient_is_in_users_once() {
        let payload = event_payload(&mark(7, 7), 1, &Users::default());
        let payload: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(payload["users"], serde_json::json!({ "7": { "id": "7" } }));
    }

    #[test]
    fn a_user_object_is_in_the_payload_byte_for_byte() {
        let object = UserObject::parse(br#" {"id":7, "name":"\u00e9"} "#, 100).unwrap();
        let users = Users::within_bounds([(7.try_into().unwrap(), object)]);
        let payload = event_payload(&mark(7, 8), 1, &users);
        let expected = r#""users":{"7":{"id":7, "name":"\u00e9"},"8":{"id":"8"}}}"#;
        assert!(payload.ends_with(expected), "{payload}");
    }

    #[test]
    fn an_event_is_parsed_as_it_was_written() {
        let position = Position::from(EntryId { ms: 5, count: 6 });
        let object =
            UserObject::parse(br#"{"id":7,"direct_message_mark_read_events":[]}"#, 100).unwrap();
        let users = Users::within_bounds([(7.try_into().unwrap(), object)]);
        let mark = mark(7, 8);
        let payload = event_payload(&mark, 9, &users);
        assert_eq!(Event::parse(position, &payload), Some(Event { position, mark, created_ms: 9 }));
        let later = |ms: &str| payload.replace("\"9\"", ms);
        assert!(Event::parse(position, &later("\"253402300799999\"")).is_some());
        // Its time has no text.
        let too_late = later("\"253402300800000\"");
        for other in ["", "{}", "[]", &payload[1..], &payload.replace("\"8\"", "8"), &too_late] {
            assert_eq!(Event::parse(position, other), None, "{other}");
        }
    }
}
