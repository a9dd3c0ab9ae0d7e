//! Events, what other programs store for them, and lines of an import.

use markread::cli::fuzzing::lines;
use markread::domain::{
    CursorRecord, EntryId, Event, Mark, Position, USER_OBJECT_MAX_BYTES, UserObject, Users,
    event_payload,
};
use markread::relay::delivery_body;
use serde_json::Value;

use crate::input::assert_loggable;

/// A stored user: embedded in an event as it is, or not at all.
pub(super) fn user_object(data: &[u8]) {
    let Some(object) = UserObject::parse(data, USER_OBJECT_MAX_BYTES) else { return };
    assert_eq!(object.as_str().as_bytes(), data.trim_ascii());
    let (reader, recipient) = (7.try_into().unwrap(), 8.try_into().unwrap());
    let mark = Mark { reader, recipient, last_read_event_id: 9.try_into().unwrap() };
    let users = Users::within_bounds([(reader, object.clone())]);
    let payload = event_payload(&mark, 5, &users);
    let parsed: Value = serde_json::from_str(&payload).unwrap();
    let stored: Value = serde_json::from_str(object.as_str()).unwrap();
    assert_eq!(parsed["users"]["7"], stored);
    assert_eq!(parsed["users"]["8"]["id"], "8");
    let position = Position::from(EntryId { ms: 5, count: 0 });
    assert_eq!(Event::parse(position, &payload), Some(Event { position, mark, created_ms: 5 }));
    let body = delivery_body(payload.as_bytes(), recipient).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["for_user_id"], "8");
    assert_eq!(body["users"], parsed["users"]);
    assert!(delivery_body(&serde_json::to_vec(&body).unwrap(), recipient).is_none(), "twice");
}

/// Lines of an import: the same through a buffer of any size, each a cursor or a bounded problem.
pub(super) fn import_lines(data: &[u8]) {
    let all = lines(data, 64 * 1024);
    assert_eq!(all, lines(data, 7));
    let expected = data.split(|byte| *byte == b'\n').count() - usize::from(data.ends_with(b"\n"));
    assert_eq!(all.len(), if data.is_empty() { 0 } else { expected });
    for (nth, (number, line)) in (1..).zip(&all) {
        assert_eq!(*number, nth);
        let Some(line) = line else { continue };
        match CursorRecord::parse(line) {
            Ok(record) => {
                let written = record.to_string();
                assert_eq!(CursorRecord::parse(written.as_bytes()), Ok(record));
                let parsed: Value = serde_json::from_slice(line).unwrap();
                let text = |name: &str| parsed[name].to_string().trim_matches('"').to_owned();
                assert_eq!(text("reader_id"), record.conversation.reader.to_string());
                assert_eq!(text("last_read_event_id"), record.last_read_event_id.to_string());
            }
            Err(problem) => assert_loggable(&problem),
        }
    }
}
