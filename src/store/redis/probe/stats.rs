//! What an operator wants to know of Redis, learnt with each probe. No call depends on it: what cannot
//! be learnt, as where an ACL forbids it, is left out.

use std::collections::{BTreeSet, HashMap};

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, cmd};

use crate::domain::EntryId;
use crate::store::StreamSpan;
use crate::store::redis::probe::durability::{self, Warnings};
use crate::store::redis::stream;
use crate::telemetry::metrics;

/// How many consumer groups are told of: each is a series of its own.
const GROUPS_MAX: usize = 32;

/// What was told of, so that what is gone is told no more.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    groups: BTreeSet<String>,
    /// Evicted keys, as that run of Redis counts them.
    evicted_keys: (String, u64),
}

/// A consumer group as `XINFO GROUPS` tells of it.
struct Group {
    name: String,
    last_delivered: EntryId,
    /// Entries that it was not given yet; Redis does not always know.
    lag: Option<u32>,
}

impl Survey {
    /// Looks around once, and gives the settings that may lose data where Redis tells.
    pub(crate) async fn take(
        &mut self,
        connection: &mut MultiplexedConnection,
        stream: &str,
    ) -> Option<Warnings> {
        if let Ok(span) = stream::span(connection, stream).await {
            metrics::set_stream(&span);
            self.tell_groups(&groups(connection, stream).await.unwrap_or_default(), &span);
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
        Some(durability::warnings(&info, connection).await)
    }

    fn tell_groups(&mut self, groups: &[Group], span: &StreamSpan) {
        let told: BTreeSet<_> =
            groups.iter().take(GROUPS_MAX).map(|group| group.name.clone()).collect();
        for gone in self.groups.difference(&told) {
            metrics::set_group(gone, Some(0), false);
        }
        for group in groups.iter().take(GROUPS_MAX) {
            let trimmed = span.removed && group.last_delivered < span.before_oldest();
            metrics::set_group(&group.name, group.lag, trimmed);
        }
        self.groups = told;
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
