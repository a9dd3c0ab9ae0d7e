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

pub(super) fn parse_entries(entries: &[Value]) -> Result<Vec<FeedEntry>, StoreError> {
    entries.iter().map(parse_entry).collect()
}

fn parse_entry(value: &Value) -> Result<FeedEntry, StoreError> {
    let Value::Array(fields) = value else { return Err(unexpected(value)) };
    let [id, deliveries, kind, rest @ ..] = &fields[..] else { return Err(unexpected(value)) };
    let content = match (text(kind)?, rest) {
        ("stored", [payload, traceparent]) => {
            EntryContent::Stored { payload: bytes(payload)?, traceparent: bytes(traceparent)? }
        }
        ("too_large", [size]) => EntryContent::TooLarge(integer(size)?),
        ("removed", []) => EntryContent::Removed,
        _ => return Err(unexpected(value)),
    };
    // The first delivery is the one to this relay.
    let attempts = integer(deliveries)?.saturating_sub(1);
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let id = text(id)?.parse().map_err(StoreError::corrupt)?;
    Ok(FeedEntry { id, attempts, content })
}

fn bytes(value: &Value) -> Result<Option<Bytes>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
        _ => Err(unexpected(value)),
    }
}
