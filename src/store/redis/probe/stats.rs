//! Statistics of Redis for operators, collected with each probe. No call depends on them: what cannot be
//! read, for example since an ACL forbids it, is left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, cmd};

use super::stream_size::StreamSize;
use super::totals::{Memory, StreamFinding};
use super::{Warnings, durability, replicas};
use crate::domain::EntryId;
use crate::store::LogBounds;
use crate::store::redis::partitions::PartitionStore;
use crate::store::redis::parts::NodeParts;
use crate::store::redis::stream::{self, Span};
use crate::telemetry::metrics::{self, GroupGauges};

/// Bytes of a group's name that are exported.
const NAME_MAX_BYTES: usize = 256;

const UNMEASURED: &str =
    "--stream-max-bytes has no effect: allow the Redis user memory|usage and xinfo|stream";
const OVER_HALF: &str =
    "--stream-max-bytes is over half of Redis's maxmemory, which cursors need too: lower it";

/// The streams of a node as its probe found them; `None` is one that could not be read.
pub(crate) type Streams = Vec<(Arc<PartitionStore>, Option<Span>)>;

/// Collects statistics of one node.
#[derive(Debug, Default)]
pub(crate) struct RedisStats {
    /// By partition.
    stream_sizes: HashMap<usize, StreamSize>,
}

/// A consumer group, from `XINFO GROUPS`.
struct Group {
    name: String,
    last_delivered: EntryId,
    /// Entries that it has not read; Redis does not always know.
    lag: Option<u32>,
}

impl RedisStats {
    /// Collects once, with the streams as the probe found them, if it came so far. Returns the settings that
    /// may lose data, if Redis reveals them.
    pub(crate) async fn collect(
        &mut self,
        connection: &mut MultiplexedConnection,
        parts: &NodeParts,
        found: Streams,
    ) -> Option<Warnings> {
        let limit = &parts.shared.stream_limit;
        let is_bounded = self.collect_streams(connection, parts, found).await;
        let mut ask = cmd("INFO");
        ask.arg("server").arg("memory").arg("persistence").arg("stats").arg("replication");
        let info: String = ask.query_async(connection).await.ok()?;
        let info: HashMap<_, _> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let number = |name| info.get(name).and_then(|text: &&str| text.parse().ok());
        if let (Some(used), Some(max)) = (number("used_memory"), number("maxmemory")) {
            parts.shared.totals.add_memory(&parts.name, Memory { used, max });
        }
        if let (Some(evicted), Some(run)) = (number("evicted_keys"), info.get("run_id")) {
            parts.shared.totals.count_evicted_keys(run, evicted);
        }
        let mut warnings = durability::warnings(&info, connection).await;
        if !is_bounded {
            warnings.push(UNMEASURED);
        }
        if replicas::are_too_few(&info, parts.shared.ack) {
            warnings.push(replicas::TOO_FEW);
        }
        let half = number("maxmemory").filter(|max| *max > 0).map(|max: u64| max / 2);
        if limit.max_bytes().zip(half).is_some_and(|(bytes, half)| bytes > half) {
            warnings.push(OVER_HALF);
        }
        Some(warnings)
    }

    /// Collects what is to be known of the node's streams. Returns false if their size is to be bounded, and
    /// cannot be measured.
    async fn collect_streams(
        &mut self,
        connection: &mut MultiplexedConnection,
        parts: &NodeParts,
        found: Streams,
    ) -> bool {
        let limit = &parts.shared.stream_limit;
        let is_measured = limit.max_bytes().is_some();
        if !is_measured {
            metrics::set_stream_bytes(0);
        }
        let has_streams = !found.is_empty();
        let read = found.into_iter().map(|(partition, span)| {
            let mut connection = connection.clone();
            async move {
                let span = if let Some(span) = span {
                    Some(span)
                } else {
                    let read = stream::span(&mut connection, &partition.keys, &[]).await;
                    read.ok().map(|(span, _)| span)
                }?;
                let name = partition.keys.stream();
                let groups = if span.exists {
                    groups(&mut connection, name).await.unwrap_or_default()
                } else {
                    Vec::new()
                };
                let memory =
                    if is_measured { StreamSize::ask(&mut connection, name).await } else { None };
                Some((partition.number, span, groups, memory))
            }
        });
        let mut is_bounded = true;
        let mut findings = Vec::new();
        for (number, span, groups, memory) in join_all(read).await.into_iter().flatten() {
            let size = memory
                .map(|bytes| self.stream_sizes.entry(number).or_default().add(bytes, &span).bytes);
            is_bounded &= size.is_some();
            let bounds = &span.bounds;
            let finding = StreamFinding {
                length: bounds.length,
                oldest_age: Duration::from_millis(bounds.oldest_age_ms()),
                bytes: size,
                is_trimmed: bounds.trimmed,
                groups: gauges(groups, bounds),
            };
            findings.push((number, finding));
        }
        is_bounded &= !findings.is_empty() || !has_streams;
        if !findings.is_empty() {
            parts.shared.totals.add_streams(findings, limit);
        }
        is_bounded || !is_measured
    }
}

fn gauges(groups: Vec<Group>, bounds: &LogBounds) -> Vec<GroupGauges> {
    let gauge = |group: Group| GroupGauges {
        has_trimmed_unread: bounds.trimmed && group.last_delivered < bounds.start().entry(),
        unread: group.lag,
        name: group.name,
    };
    groups.into_iter().map(gauge).collect()
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
