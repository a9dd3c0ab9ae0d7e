//! The mark-read event: CONTRACT section 7, the seed's webhook payload.
//!
//! The Redis script writes the same JSON (`src/store/redis/mark_read.lua`); the property test in
//! `tests/it/twins.rs` demands equal bytes.

use crate::mark_read::Mark;

/// The payload of a mark that advanced its cursor at `created_ms`, in milliseconds since 1970.
///
/// IDs and times are strings of digits, so nothing in it needs escaping. When reader and recipient
/// are one user, that user stands once in `users`.
pub fn payload(mark: &Mark, created_ms: u64) -> String {
    let Mark { reader, recipient, last_read_event_id } = mark;
    let users = if reader == recipient {
        format!(r#""{reader}":{{"id":"{reader}"}}"#)
    } else {
        format!(r#""{reader}":{{"id":"{reader}"}},"{recipient}":{{"id":"{recipient}"}}"#)
    };
    format!(
        r#"{{"direct_message_mark_read_events":[{{"created_timestamp":"{created_ms}","sender_id":"{reader}","last_read_event_id":"{last_read_event_id}","target":{{"recipient_id":"{recipient}"}}}}],"users":{{{users}}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(reader: u64, recipient: u64) -> Mark {
        Mark {
            reader: reader.try_into().unwrap(),
            recipient: recipient.try_into().unwrap(),
            last_read_event_id: 8_754_578_330_382_663_743.try_into().unwrap(),
        }
    }

    #[test]
    fn the_payload_is_the_contracts_json() {
        assert_eq!(
            payload(&mark(2_244_994_945, 3_805_104_374), 1_518_127_183_443),
            r#"{"direct_message_mark_read_events":[{"created_timestamp":"1518127183443","sender_id":"2244994945","last_read_event_id":"8754578330382663743","target":{"recipient_id":"3805104374"}}],"users":{"2244994945":{"id":"2244994945"},"3805104374":{"id":"3805104374"}}}"#
        );
    }

    #[test]
    fn a_reader_who_is_the_recipient_stands_once_in_users() {
        let payload: serde_json::Value = serde_json::from_str(&payload(&mark(7, 7), 1)).unwrap();
        assert_eq!(payload["users"], serde_json::json!({ "7": { "id": "7" } }));
    }
}
