//! Entries of feeds in replies of `relay_new_entries.lua` and `relay_pending.lua`.

use bytes::Bytes;
use redis::Value;

use crate::store::StoreError;
use crate::store::redis::errors::unexpected;
use crate::store::redis::scripts::{integer, text};
use crate::store::relay::{EntryContent, FeedEntry};

/// Most bytes of one entry: 1 MiB of user objects, and the rest of an event.
pub(super) const ENTRY_MAX_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// Bytes after which no more entries are read, at most. Up to eight are read at once, so a reply has at most
/// 12.5 MiB.
pub(super) const READ_MAX_BYTES: usize = 4 * 1024 * 1024;

pub(in crate::store::redis) fn parse_entries(
    entries: impl Iterator<Item = Value>,
) -> Result<Vec<FeedEntry>, StoreError> {
    entries.map(parse_entry).collect()
}

fn parse_entry(value: Value) -> Result<FeedEntry, StoreError> {
    let Value::Array(mut fields) = value else { return Err(unexpected(&value)) };
    let content = match &mut fields[..] {
        [_, _, kind, rest @ ..] => match (text(kind)?, rest) {
            ("stored", [payload, traceparent]) => EntryContent::Stored {
                payload: take_bytes(payload)?,
                traceparent: take_bytes(traceparent)?,
            },
            ("too_large", [size]) => EntryContent::TooLarge(integer(size)?),
            ("removed", []) => EntryContent::Removed,
            ("deleted", []) => EntryContent::Deleted,
            _ => return Err(unexpected(kind)),
        },
        _ => return Err(unexpected(&Value::Array(fields))),
    };
    let [id, deliveries, ..] = &fields[..] else { return Err(too_short()) };
    // The first delivery is the one to this relay.
    let attempts = integer(deliveries)?.saturating_sub(1);
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let id = text(id)?.parse().map_err(StoreError::corrupt)?;
    Ok(FeedEntry { id, attempts, content })
}

pub(super) fn too_short() -> StoreError {
    StoreError::corrupt("unexpected reply: it is too short")
}

/// Takes the bytes, which may be a megabyte, without a copy.
fn take_bytes(value: &mut Value) -> Result<Option<Bytes>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(std::mem::take(bytes).into())),
        _ => Err(unexpected(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EntryId;

    #[test]
    fn a_payload_is_not_copied() {
        let payload = vec![b'x'; 1000];
        let at = payload.as_ptr();
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let payload = Value::BulkString(payload);
        let fields = [text(b"5-1"), Value::Int(3), text(b"stored"), payload, Value::Nil];
        let entry = parse_entry(Value::Array(fields.into())).unwrap();
        assert_eq!((entry.id, entry.attempts), (EntryId { ms: 5, count: 1 }, 2));
        let EntryContent::Stored { payload: Some(payload), traceparent: None } = entry.content
        else {
            panic!("it is stored");
        };
        assert_eq!((payload.as_ptr(), payload.len()), (at, 1000));
    }

    #[test]
    fn odd_replies_are_errors() {
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        for fields in [
            vec![],
            vec![text(b"5-1"), Value::Int(3)],
            vec![text(b"5-1"), Value::Int(3), text(b"stored"), text(b"1")],
            vec![text(b"5-1"), Value::Int(3), text(b"stored"), Value::Int(1), Value::Nil],
            vec![text(b"5-1"), Value::Int(3), text(b"other")],
            vec![text(b"5-1"), Value::Int(3), text(b"removed"), text(b"1")],
            vec![text(b"x"), Value::Int(3), text(b"removed")],
        ] {
            parse_entry(Value::Array(fields.clone())).expect_err(&format!("{fields:?}"));
        }
        parse_entry(Value::Nil).unwrap_err();
    }
}
