//! Statistics of Redis for operators, collected with each probe. No call depends on them: what cannot be
//! read, for example since an ACL forbids it, is left out.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, cmd};

use super::stream_size::StreamSize;
use super::{Warnings, durability};
use crate::domain::EntryId;
use crate::store::LogBounds;
use crate::store::redis::stream;
use crate::store::redis::stream_limit::StreamLimit;
use crate::telemetry::metrics;

/// Most consumer groups that are exported: each is a series of its own.
const GROUPS_MAX: usize = 32;

const UNMEASURED: &str =
    "--stream-max-bytes has no effect: allow the Redis user memory|usage and xinfo|stream";
const OVER_HALF: &str =
    "--stream-max-bytes is over half of Redis's maxmemory, which cursors need too: lower it";

/// Collects statistics.
#[derive(Debug, Default)]
pub(crate) struct RedisStats {
    /// Groups exported last time, so that vanished ones are reset.
    groups: BTreeSet<String>,
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
    /// Collects once. Returns the settings that may lose data, if Redis reveals them.
    pub(crate) async fn collect(
        &mut self,
        connection: &mut MultiplexedConnection,
        stream: &str,
        limit: &StreamLimit,
    ) -> Option<Warnings> {
        let is_bounded = self.bound_stream(connection, stream, limit).await;
        if let Ok(bounds) = stream::bounds(connection, stream).await {
            metrics::set_stream(bounds.length, Duration::from_millis(bounds.oldest_age_ms()));
            self.export_groups(&groups(connection, stream).await.unwrap_or_default(), &bounds);
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
    ) -> bool {
        if limit.max_bytes().is_none() {
            metrics::set_stream_bytes(0);
            return true;
        }
        let Some(measured) = self.stream_size.measure(connection, stream).await else {
            return false;
        };
        metrics::set_stream_bytes(measured.bytes);
        limit.adapt(measured.length, measured.bytes);
        true
    }

    fn export_groups(&mut self, groups: &[Group], bounds: &LogBounds) {
        let exported: BTreeSet<_> =
            groups.iter().take(GROUPS_MAX).map(|group| group.name.clone()).collect();
        for gone in self.groups.difference(&exported) {
            metrics::set_group(gone, Some(0), false);
        }
        for group in groups.iter().take(GROUPS_MAX) {
            let trimmed = bounds.trimmed && group.last_delivered < bounds.start().entry();
            metrics::set_group(&group.name, group.lag, trimmed);
        }
        self.groups = exported;
    }
}

async fn groups(connection: &mut MultiplexedConnection, stream: &str) -> RedisResult<Vec<Group>> {
    let mut ask = cmd("XINFO");
    ask.arg("GROUPS").arg(stream);
    let groups: Vec<HashMap<String, redis::Value>> = ask.query_async(connection).await?;
    let read = |fields: &HashMap<String, redis::Value>| {
        let text = |name: &str| String::from_redis_value_ref(fields.get(name)?).ok();
        let lag = fields.get("lag").and_then(|lag| u32::from_redis_value_ref(lag).ok());
        let last_delivered = text("last-delivered-id")?.parse().ok()?;
        Some(Group { name: text("name")?, last_delivered, lag })
    };
    Ok(groups.iter().filter_map(read).collect())
}
