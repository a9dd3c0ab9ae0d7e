//! Replies of Redis and of our scripts, as they come over the wire (RESP).

use std::collections::HashMap;

use markread::domain::{Conversation, EntryId, Event, Mark, event_payload};
use markread::store::redis::fuzzing as store;
use redis::{FromRedisValue, Value, parse_redis_value};

/// Entries of the stream: each is counted, and an event of it is one that this service writes.
pub(super) fn stream_entries(data: &[u8]) {
    let Ok(reply) = parse_redis_value(data) else { return };
    let marker = EntryId { ms: 5, count: 6 };
    if let Ok((bounds, present)) = store::stream_span(&reply, &[marker]) {
        assert!(present.len() <= 1);
        assert!(bounds.latest_ms() >= bounds.now_ms);
        let _ = bounds.start().max(bounds.end());
        let _ = bounds.resume(marker.into());
    }
    let Value::Array(entries) = reply else { return };
    let Ok(found) = store::stream_entries(&entries) else { return };
    assert_eq!(found.count, entries.len());
    assert!(found.events.len() <= found.count && found.bytes <= data.len());
    assert_eq!(found.span.is_some(), found.count > 0);
    for Event { position, mark, created_ms } in found.events {
        let written = event_payload(&mark, created_ms, &markread::domain::Users::default());
        assert_eq!(Event::parse(position, &written), Some(Event { position, mark, created_ms }));
    }
}

fn mark(reader: u64, recipient: u64) -> Mark {
    Mark {
        reader: reader.try_into().unwrap(),
        recipient: recipient.try_into().unwrap(),
        last_read_event_id: 10.try_into().unwrap(),
    }
}

/// Replies of scripts: each call has as many results as items.
pub(super) fn scripts(data: &[u8]) {
    let Ok(reply) = parse_redis_value(data) else { return };
    for marks in [vec![mark(1, 2)], vec![mark(1, 2), mark(3, 4)]] {
        if let Ok((results, rare)) = store::marks(&marks, &reply) {
            assert_eq!(results.len(), marks.len());
            assert!(rare.iter().all(|place| results[*place].is_err()));
        }
    }
    let conversation =
        Conversation { reader: 1.try_into().unwrap(), recipient: 2.try_into().unwrap() };
    for conversations in [vec![], vec![conversation]] {
        if let Ok(Some(states)) = store::states(&conversations, &reply) {
            assert_eq!(states.len(), conversations.len());
        }
    }
    let _ = store::page(1.try_into().unwrap(), 2, &reply);
    if let Ok(outcomes) = store::put_outcomes(&reply, 2) {
        assert_eq!(outcomes.len(), 2);
    }
    let _ = store::other_replies(&reply);
}

/// What the relay reads: entries, dead letters, states and processes.
pub(super) fn relay(data: &[u8]) {
    let Ok(reply) = parse_redis_value(data) else { return };
    if let Ok(letters) = store::dead_letters(&reply) {
        assert!(matches!(&reply, Value::Array(all) if all.len() == letters.len()));
    }
    if let Ok(fields) = HashMap::<String, Vec<u8>>::from_redis_value_ref(&reply)
        && let Ok(state) = store::webhook_state(&fields)
    {
        assert_eq!(store::webhook_state(&store::webhook_state_fields(&state)), Ok(state));
    }
    if let Ok(pair) = Vec::<Vec<u8>>::from_redis_value_ref(&reply)
        && let [id, stored] = &pair[..]
        && let Some(process) = store::relay_process(id, stored)
    {
        assert_eq!(process.id.as_bytes(), id);
    }
    if let Value::Array(values) = reply {
        let count = values.len();
        if let Ok(entries) = store::feed_entries(values) {
            assert_eq!(entries.len(), count);
        }
    }
}
