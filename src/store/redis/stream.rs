//! Reads of the stream: new entries, old ones, and its span.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value, cmd, pipe};

use super::errors::{classify, unexpected};
use super::keys::Keys;
use crate::domain::EntryId;
use crate::store::{Entries, LogBounds, ReadSize, StoreError};

/// Most entries of one read: 6 MB at 6 KB each.
const READ_MAX_ENTRIES: usize = 1000;

/// Bytes to aim at in each of the reads that return many entries.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The reply to `XINFO STREAM`.
pub(crate) type Info = HashMap<String, Value>;

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
    let read: Option<HashMap<String, Vec<Value>>> =
        read.query_async(connection).await.map_err(classify)?;
    let entries = read.and_then(|mut streams| streams.remove(stream)).unwrap_or_default();
    parse(&entries)
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

/// Number of commands that [`bounds`] sends.
pub(crate) const BOUNDS_COMMANDS: usize = 3;

/// Reads the span of the stream.
pub(crate) async fn bounds(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<LogBounds, StoreError> {
    let mut read = pipe();
    ask_info(&mut read, keys);
    read.cmd("TIME").ignore_errors();
    let (info, gap_before, time): (RedisResult<Info>, GapBefore, RedisResult<(u64, u64)>) =
        read.query_async(connection).await.map_err(classify)?;
    let (seconds, micros) = time.map_err(classify)?;
    let span = span(info)?;
    Ok(LogBounds {
        gap_before: parse_gap(gap_before).map_err(classify)?,
        now_ms: seconds * 1000 + micros / 1000,
        ..span.unwrap_or_default().bounds
    })
}

/// The layout's field `gap_before`, in a reply.
pub(crate) type GapBefore = RedisResult<(Option<Vec<u8>>,)>;

/// Adds the commands whose replies are [`Info`] and [`GapBefore`].
pub(crate) fn ask_info(read: &mut Pipeline, keys: &Keys) {
    read.cmd("XINFO").arg("STREAM").arg(keys.stream());
    read.cmd("HMGET").arg(keys.layout()).arg("gap_before");
}

/// Parses what is in the layout. An absent position is zero, and so is one that somebody else put there.
pub(crate) fn parse_gap(gap_before: GapBefore) -> Result<EntryId, RedisError> {
    let text = gap_before?.0.and_then(|text| String::from_utf8(text).ok());
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(EntryId::ZERO))
}

/// The stream, from `XINFO STREAM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its bounds. The clock and the known losses are not part of the reply.
    pub(crate) bounds: LogBounds,
    /// How many entries were ever added.
    pub(crate) added: u64,
}

impl Span {
    /// Returns how many entries were removed.
    pub(crate) fn removed(&self) -> u64 {
        self.added.saturating_sub(self.bounds.length)
    }
}

/// Parses the reply to `XINFO STREAM`; `None` if there is no stream.
pub(crate) fn span(info: RedisResult<Info>) -> Result<Option<Span>, StoreError> {
    let info = match info {
        Ok(info) => info,
        Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => {
            return Ok(None);
        }
        Err(error) => return Err(classify(error)),
    };
    let value = |name: &str| {
        info.get(name).ok_or_else(|| StoreError::corrupt("a field of XINFO STREAM is missing"))
    };
    let number = |name: &str| match value(name)? {
        Value::Int(number) => u64::try_from(*number).map_err(StoreError::corrupt),
        other => Err(unexpected(other)),
    };
    let entry = |name: &str| match value(name)? {
        Value::Array(entry) => entry.first().map(id).transpose(),
        _ => Ok(None),
    };
    let (length, added) = (number("length")?, number("entries-added")?);
    let bounds = LogBounds {
        oldest: entry("first-entry")?,
        newest: entry("last-entry")?,
        last_id: id(value("last-generated-id")?)?,
        max_removed: id(value("max-deleted-entry-id")?)?,
        trimmed: added > length,
        length,
        ..LogBounds::default()
    };
    Ok(Some(Span { bounds, added }))
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

fn parse(entries: &[Value]) -> Result<Entries, StoreError> {
    let entries: Vec<Entry<'_>> = entries.iter().map(Entry::parse).collect::<Result<_, _>>()?;
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let parsed = Entries::parse(entries.into_iter().map(|entry| (entry.id, entry.payload)));
    Ok(Entries { bytes, ..parsed })
}

fn id(value: &Value) -> Result<EntryId, StoreError> {
    super::scripts::text(value)?.parse().map_err(StoreError::corrupt)
}
