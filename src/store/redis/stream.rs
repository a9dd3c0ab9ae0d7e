//! Reads of the stream: new entries, old ones, and its span.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Value, cmd};

use super::errors::{classify, unexpected};
use super::keys::Keys;
use crate::domain::EntryId;
use crate::store::{Entries, LogBounds, ReadSize, StoreError};

/// Most entries of one read: 6 MB at 6 KB each.
pub(crate) const READ_MAX_ENTRIES: usize = 1000;

/// Bytes to aim at in each of the reads that return many entries.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Returns numbers and IDs of the stream, and which of some entries are in it. Entries of other programs may
/// have hundreds of megabytes, and `XINFO STREAM` and `XREVRANGE` return whole ones: they do not leave Redis.
///
/// Not `XRANGE`: its count in `INFO commandstats` shows what is read for watchers that come back.
const SPAN: &str = "
    local gap_before = redis.call('HGET', KEYS[2], 'gap_before')
    local time = redis.call('TIME')
    local reply = {gap_before or '', time[1], time[2]}
    if redis.call('EXISTS', KEYS[1]) == 0 then return reply end
    local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
    if info.err then return info end
    local fields = {}
    for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
    local first, last = fields['first-entry'] or {''}, fields['last-entry'] or {'', {}}
    local newest_bytes = #last[1]
    for _, text in ipairs(last[2]) do newest_bytes = newest_bytes + #text end
    local present = {}
    for i, id in ipairs(ARGV) do
        local is_end = id == first[1] or id == last[1]
        present[i] = (is_end or #redis.call('XREVRANGE', KEYS[1], id, id) > 0) and 1 or 0
    end
    local numbers = {fields['length'], fields['entries-added'], fields['radix-tree-keys'], newest_bytes}
    local last_id, max_removed = fields['last-generated-id'], fields['max-deleted-entry-id']
    reply[4], reply[5], reply[6] = numbers, {first[1], last[1], last_id, max_removed}, present
    return reply";

/// Waits for entries after an ID.
pub(crate) async fn wait(
    connection: &mut MultiplexedConnection,
    stream: &str,
    after: EntryId,
    limit: usize,
    wait: Duration,
) -> Result<Entries, StoreError> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut read = cmd("XREAD");
    read.arg("COUNT").arg(limit.min(READ_MAX_ENTRIES)).arg("BLOCK").arg(wait_ms);
    read.arg("STREAMS").arg(stream).arg(after.to_string());
    read_one(read, connection, stream).await
}

async fn read_one(
    read: Cmd,
    connection: &mut MultiplexedConnection,
    stream: &str,
) -> Result<Entries, StoreError> {
    let read: Option<HashMap<String, Vec<Value>>> =
        read.query_async(connection).await.map_err(classify)?;
    let entries = read.and_then(|mut streams| streams.remove(stream)).unwrap_or_default();
    parse(&entries)
}

/// Reads new entries after an ID, if there are any.
pub(crate) async fn read(
    connection: &mut MultiplexedConnection,
    stream: &str,
    after: EntryId,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut read = cmd("XREAD");
    read.arg("COUNT").arg(limit.min(READ_MAX_ENTRIES));
    read.arg("STREAMS").arg(stream).arg(after.to_string());
    read_one(read, connection, stream).await
}

/// Reads entries after an ID.
pub(crate) async fn range(
    connection: &mut MultiplexedConnection,
    stream: &str,
    after: EntryId,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut read = cmd("XRANGE");
    read.arg(stream).arg(format!("({after}")).arg("+");
    read.arg("COUNT").arg(limit.min(READ_MAX_ENTRIES));
    let entries: Vec<Value> = read.query_async(connection).await.map_err(classify)?;
    parse(&entries)
}

/// Reads the newest entries, in pieces, since a read of thousands would block Redis for others.
pub(crate) async fn newest(
    connection: &mut MultiplexedConnection,
    stream: &str,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut newest = Entries::default();
    let mut size = ReadSize::new(READ_MAX_ENTRIES, READ_BYTES);
    let mut left = limit;
    let mut up_to = "+".to_owned();
    while left > 0 {
        let wanted = left.min(size.entries());
        let mut read = cmd("XREVRANGE");
        read.arg(stream).arg(&up_to).arg("-").arg("COUNT").arg(wanted);
        let mut piece: Vec<Value> = read.query_async(connection).await.map_err(classify)?;
        left = if piece.len() < wanted { 0 } else { left - wanted };
        if let Some(oldest) = piece.last() {
            up_to = format!("({}", Entry::parse(oldest)?.id);
        }
        piece.reverse();
        let older = parse(&piece)?;
        size.adapt(&older);
        newest = older.followed_by(newest);
    }
    Ok(newest)
}

/// Reads the bounds of the stream.
pub(crate) async fn bounds(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<LogBounds, StoreError> {
    let (span, _) = span(connection, keys, &[]).await.map_err(classify)?;
    Ok(span.bounds)
}

/// A stream as it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) bounds: LogBounds,
    /// How many entries were ever added.
    pub(crate) added: u64,
    /// How many nodes have its entries.
    pub(crate) nodes: u64,
    /// The size of the newest entry, in bytes.
    pub(crate) newest_bytes: u64,
    /// Whether there is such a key.
    pub(crate) exists: bool,
}

impl Span {
    /// Returns how many entries were removed.
    pub(crate) fn removed(&self) -> u64 {
        self.added.saturating_sub(self.bounds.length)
    }
}

/// Reads the stream's span, and which of some entries are in their place.
pub(crate) async fn span(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    entries: &[EntryId],
) -> RedisResult<(Span, Vec<EntryId>)> {
    let mut read = cmd("EVAL");
    read.arg(SPAN).arg(2).arg(keys.stream()).arg(keys.layout());
    for entry in entries {
        read.arg(entry.to_string());
    }
    let reply: Value = read.query_async(connection).await?;
    parse_span(&reply, entries).map_err(|error| {
        RedisError::from((ErrorKind::UnexpectedReturnType, "the stream's span", error.to_string()))
    })
}

/// Parses the reply of [`SPAN`], which is short if there is no stream.
pub(super) fn parse_span(
    reply: &Value,
    entries: &[EntryId],
) -> Result<(Span, Vec<EntryId>), StoreError> {
    let Value::Array(parts) = reply else { return Err(unexpected(reply)) };
    let [gap_before, seconds, micros, of_stream @ ..] = &parts[..] else {
        return Err(unexpected(reply));
    };
    let (seconds, micros) = (number(seconds)?, number(micros)?);
    let outside = LogBounds {
        // An absent position is zero, and so is one that somebody else put there.
        gap_before: id(gap_before).unwrap_or(EntryId::ZERO),
        now_ms: seconds.saturating_mul(1000).saturating_add(micros / 1000),
        ..LogBounds::default()
    };
    let [Value::Array(numbers), Value::Array(ids), Value::Array(present)] = of_stream else {
        return if of_stream.is_empty() {
            Ok((Span { bounds: outside, ..Span::default() }, Vec::new()))
        } else {
            Err(unexpected(reply))
        };
    };
    let ([length, added, nodes, newest_bytes], [oldest, newest, last_id, max_removed]) =
        (&numbers[..], &ids[..])
    else {
        return Err(unexpected(reply));
    };
    let (length, added) = (number(length)?, number(added)?);
    let entry = |value: &Value| match value {
        Value::BulkString(text) if text.is_empty() => Ok(None),
        value => id(value).map(Some),
    };
    let bounds = LogBounds {
        oldest: entry(oldest)?,
        newest: entry(newest)?,
        last_id: id(last_id)?,
        max_removed: id(max_removed)?,
        trimmed: added > length,
        length,
        ..outside
    };
    let (nodes, newest_bytes) = (number(nodes)?, number(newest_bytes)?);
    let span = Span { bounds, added, nodes, newest_bytes, exists: true };
    let present = entries.iter().zip(present).filter(|(_, is_there)| **is_there == Value::Int(1));
    Ok((span, present.map(|(entry, _)| *entry).collect()))
}

fn number(value: &Value) -> Result<u64, StoreError> {
    u64::from_redis_value_ref(value).map_err(StoreError::corrupt)
}

/// An entry in a reply.
struct Entry<'a> {
    id: EntryId,
    /// The event, if it is one of this service's.
    payload: &'a str,
    bytes: usize,
}

impl<'a> Entry<'a> {
    /// Parses an entry: its ID and its fields. Entries of other programs may contain anything.
    fn parse(value: &'a Value) -> Result<Self, StoreError> {
        let Value::Array(entry) = value else { return Err(unexpected(value)) };
        let [entry_id, fields] = &entry[..] else { return Err(unexpected(value)) };
        let mut parsed = Self { id: id(entry_id)?, payload: "", bytes: 0 };
        // Whatever else is there, it is not an event.
        let Value::Array(fields) = fields else { return Ok(parsed) };
        for pair in fields.chunks_exact(2) {
            let [Value::BulkString(name), Value::BulkString(content)] = pair else { continue };
            parsed.bytes += name.len() + content.len();
            if name == b"payload" {
                parsed.payload = std::str::from_utf8(content).unwrap_or_default();
            }
        }
        Ok(parsed)
    }
}

pub(super) fn parse(entries: &[Value]) -> Result<Entries, StoreError> {
    let entries: Vec<Entry<'_>> = entries.iter().map(Entry::parse).collect::<Result<_, _>>()?;
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let parsed = Entries::parse(entries.into_iter().map(|entry| (entry.id, entry.payload)));
    Ok(Entries { bytes, ..parsed })
}

fn id(value: &Value) -> Result<EntryId, StoreError> {
    super::scripts::text(value)?.parse().map_err(StoreError::corrupt)
}
