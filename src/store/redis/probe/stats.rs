//! Statistics of Redis for operators, collected with each probe. No call depends on them: what cannot be
//! read, for example since an ACL forbids it, is left out.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, cmd};

use super::stream_size::StreamSize;
use super::{Warnings, durability};
use crate::domain::EntryId;
use crate::store::LogBounds;
use crate::store::redis::keys::Keys;
use crate::store::redis::stream::{self, Span};
use crate::store::redis::stream_limit::StreamLimit;
use crate::telemetry::metrics::{self, GroupGauges};

/// Most consumer groups that are exported: each is a series of its own.
const GROUPS_MAX: usize = 32;

/// Bytes of a group's name that are exported.
const NAME_MAX_BYTES: usize = 256;

const UNMEASURED: &str =
    "--stream-max-bytes has no effect: allow the Redis user memory|usage and xinfo|stream";
const OVER_HALF: &str =
    "--stream-max-bytes is over half of Redis's maxmemory, which cursors need too: lower it";

/// Collects statistics.
#[derive(Debug, Default)]
pub(crate) struct RedisStats {
    stream_size: StreamSize,
    /// Run ID of Redis, and the evicted keys that it had counted.
    evicted_keys: (String, u64),
}

/// A consumer group, from `XINFO GROUPS`.
struct Group {
    name: String,
    last_delivered: EntryId,
    /// Entries that it has not read; Redis does not always know.
    lag: Option<u32>,
}

impl RedisStats {
    /// Collects once, with the stream as the probe found it, if it came so far. Returns the settings that may
    /// lose data, if Redis reveals them.
    pub(crate) async fn collect(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        limit: &StreamLimit,
        found: Option<Span>,
    ) -> Option<Warnings> {
        let stream = keys.stream();
        let span = match found {
            Some(span) => Some(span),
            None => stream::span(connection, keys, &[]).await.ok().map(|(span, _)| span),
        };
        let is_bounded = self.bound_stream(connection, stream, limit, span.as_ref()).await;
        if let Some(Span { bounds, .. }) = span {
            metrics::set_stream(bounds.length, Duration::from_millis(bounds.oldest_age_ms()));
            export_groups(groups(connection, stream).await.unwrap_or_default(), &bounds);
        }
        let mut ask = cmd("INFO");
        ask.arg("server").arg("memory").arg("persistence").arg("stats");
        let info: String = ask.query_async(connection).await.ok()?;
        let info: HashMap<_, _> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let number = |name| info.get(name).and_then(|text: &&str| text.parse().ok());
        if let (Some(used), Some(max)) = (number("used_memory"), number("maxmemory")) {
            metrics::set_redis_memory(used, max);
        }
        if let (Some(evicted), Some(run)) = (number("evicted_keys"), info.get("run_id")) {
            let counted = if self.evicted_keys.0 == *run { self.evicted_keys.1 } else { 0 };
            metrics::count_redis_evicted_keys(evicted.saturating_sub(counted));
            self.evicted_keys = ((*run).to_owned(), evicted);
        }
        let mut warnings = durability::warnings(&info, connection).await;
        if !is_bounded {
            warnings.push(UNMEASURED);
        }
        let half = number("maxmemory").filter(|max| *max > 0).map(|max: u64| max / 2);
        if limit.max_bytes().zip(half).is_some_and(|(bytes, half)| bytes > half) {
            warnings.push(OVER_HALF);
        }
        Some(warnings)
    }

    /// Adapts the length of the stream to its size. Returns false if its size is to be bounded, and cannot
    /// be measured.
    async fn bound_stream(
        &mut self,
        connection: &mut MultiplexedConnection,
        stream: &str,
        limit: &StreamLimit,
        span: Option<&Span>,
    ) -> bool {
        if limit.max_bytes().is_none() {
            metrics::set_stream_bytes(0);
            return true;
        }
        let Some(span) = span else { return false };
        let Some(measured) = self.stream_size.measure(connection, stream, span).await else {
            return false;
        };
        metrics::set_stream_bytes(measured.bytes);
        limit.adapt(measured.length, measured.bytes);
        true
    }
}

fn export_groups(groups: Vec<Group>, bounds: &LogBounds) {
    let exported = groups.into_iter().take(GROUPS_MAX).map(|group| GroupGauges {
        has_trimmed_unread: bounds.trimmed && group.last_delivered < bounds.start().entry(),
        unread: group.lag,
        name: group.name,
    });
    metrics::set_groups(exported.collect());
}

/// Returns the text by which a group is exported. Redis takes any bytes, of any length, as a name.
fn label(name: &[u8]) -> String {
    let shown = name.get(..NAME_MAX_BYTES).unwrap_or(name);
    match std::str::from_utf8(shown) {
        Ok(text) => text.to_owned(),
        Err(_) => shown.escape_ascii().to_string(),
    }
}

async fn groups(connection: &mut MultiplexedConnection, stream: &str) -> RedisResult<Vec<Group>> {
    let mut ask = cmd("XINFO");
    ask.arg("GROUPS").arg(stream);
    let groups: Vec<HashMap<String, redis::Value>> = ask.query_async(connection).await?;
    let read = |fields: &HashMap<String, redis::Value>| {
        let redis::Value::BulkString(name) = fields.get("name")? else { return None };
        let lag = fields.get("lag").and_then(|lag| u32::from_redis_value_ref(lag).ok());
        let last_delivered = String::from_redis_value_ref(fields.get("last-delivered-id")?).ok()?;
        let last_delivered = last_delivered.parse().ok()?;
        Some(Group { name: label(name), last_delivered, lag })
    };
    Ok(groups.iter().filter_map(read).collect())
}
