//! Reading the stream: the entries that come, those that were, and what it spans.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd, pipe};

use super::errors::{classify, unexpected};
use crate::domain::EntryId;
use crate::store::{Entries, StoreError, StreamSpan};

/// The most entries of one read: of 6 KB each that is 6 MB.
const READ_MAX_ENTRIES: usize = 1000;

/// An entry as Redis tells it: its ID, its fields.
type Entry = (String, HashMap<String, String>);

/// What `XINFO STREAM` tells.
type Info = HashMap<String, Value>;

/// Waits for entries behind this one.
pub(crate) async fn next(
    connection: &mut MultiplexedConnection,
    stream: &str,
    after: EntryId,
    wait: Duration,
) -> Result<Entries, StoreError> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut read = cmd("XREAD");
    read.arg("COUNT").arg(READ_MAX_ENTRIES).arg("BLOCK").arg(wait_ms);
    read.arg("STREAMS").arg(stream).arg(after.to_string());
    let read: Option<HashMap<String, Vec<Entry>>> =
        read.query_async(connection).await.map_err(classify)?;
    let entries = read.and_then(|mut streams| streams.remove(stream)).unwrap_or_default();
    parse(&entries)
}

/// Reads entries behind this one.
pub(crate) async fn range(
    connection: &mut MultiplexedConnection,
    stream: &str,
    after: EntryId,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut read = cmd("XRANGE");
    read.arg(stream).arg(format!("({after}")).arg("+");
    read.arg("COUNT").arg(limit.min(READ_MAX_ENTRIES));
    let entries: Vec<Entry> = read.query_async(connection).await.map_err(classify)?;
    parse(&entries)
}

/// Reads the newest entries, in pieces: to read thousands at once would hold up everybody else.
pub(crate) async fn newest(
    connection: &mut MultiplexedConnection,
    stream: &str,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut newest = Entries::default();
    let mut left = limit;
    while left > 0 {
        let up_to = newest.span.map_or_else(|| "+".to_owned(), |(first, _)| format!("({first}"));
        let wanted = left.min(READ_MAX_ENTRIES);
        let mut read = cmd("XREVRANGE");
        read.arg(stream).arg(up_to).arg("-").arg("COUNT").arg(wanted);
        let mut piece: Vec<Entry> = read.query_async(connection).await.map_err(classify)?;
        left = if piece.len() < wanted { 0 } else { left - wanted };
        piece.reverse();
        newest = parse(&piece)?.followed_by(newest);
    }
    Ok(newest)
}

/// The commands of [`span`].
pub(crate) const SPAN_COMMANDS: usize = 2;

/// Asks what the stream spans.
pub(crate) async fn span(
    connection: &mut MultiplexedConnection,
    stream: &str,
) -> Result<StreamSpan, StoreError> {
    let mut ask = pipe();
    ask.cmd("XINFO").arg("STREAM").arg(stream).cmd("TIME").ignore_errors();
    let (info, time): (RedisResult<Info>, RedisResult<(u64, u64)>) =
        ask.query_async(connection).await.map_err(classify)?;
    let (seconds, micros) = time.map_err(classify)?;
    let now_ms = seconds * 1000 + micros / 1000;
    let info = match info {
        Ok(info) => info,
        Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => {
            let (first, last_given, removed, length) = (None, EntryId::ZERO, false, 0);
            return Ok(StreamSpan { first, last_given, removed, length, now_ms });
        }
        Err(error) => return Err(classify(error)),
    };
    let value = |name: &str| {
        info.get(name).ok_or_else(|| StoreError::corrupt("a field of XINFO STREAM is missing"))
    };
    let number = |name: &str| match value(name)? {
        Value::Int(number) => Ok(*number),
        other => Err(unexpected(other)),
    };
    let first = match value("first-entry")? {
        Value::Array(entry) => entry.first().map(id).transpose()?,
        _ => None,
    };
    let last_given = id(value("last-generated-id")?)?;
    let length = number("length")?;
    let removed = number("entries-added")? > length;
    let length = u64::try_from(length).map_err(StoreError::corrupt)?;
    Ok(StreamSpan { first, last_given, removed, length, now_ms })
}

fn parse(entries: &[Entry]) -> Result<Entries, StoreError> {
    let entries = entries.iter().map(|(id, fields)| {
        let id = id.parse().map_err(StoreError::corrupt)?;
        Ok((id, fields.get("payload").map(String::as_str).unwrap_or_default()))
    });
    Ok(Entries::of(entries.collect::<Result<Vec<_>, StoreError>>()?))
}

fn id(value: &Value) -> Result<EntryId, StoreError> {
    super::scripts::text(value)?.parse().map_err(StoreError::corrupt)
}
