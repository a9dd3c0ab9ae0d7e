//! A connection to one Redis, by which operators' commands run scripts and find readers.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, RedisResult, Value, cmd, pipe,
};
use tokio::time::{Instant, sleep};

use super::AdminError;
use crate::domain::UserId;
use crate::store::StoreError;
use crate::store::redis::cluster::masters::{Masters, may_be_elsewhere};
use crate::store::redis::connection::layout::Fields;
use crate::store::redis::connection::link::Connect;
use crate::store::redis::connection::mode::{Connector, RedisMode};
use crate::store::redis::errors::{classify, lost_script};
use crate::store::redis::keys::Keys;
use crate::store::redis::probe::permissions::{IS_CLUSTER, is_cluster};
use crate::store::redis::scripts::Script;
use crate::store::redis::sentinel::SentinelGroup;

/// How long Redis may take over one command.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Keys that one step of SCAN looks at.
const SCAN_COUNT: usize = 1000;

/// How long a step is tried again while a cluster has no master for it, or its slot is on its way: a
/// failover takes seconds, and a slot with many keys may take minutes.
const PATIENCE: Duration = Duration::from_secs(180);

/// Time between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A connection. Its clones share it.
#[derive(Clone)]
pub(super) struct AdminConnection {
    redis: MultiplexedConnection,
    /// In a cluster: its masters, and the partition to whose master it leads.
    of_cluster: Option<(Arc<Masters>, usize)>,
}

/// When a step was begun that is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries(Instant);

impl Tries {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }
}

/// Readers that one step of SCAN has found.
#[derive(Debug)]
pub(super) struct ScannedReaders {
    /// Each of them once.
    pub(super) found: Vec<UserId>,
    /// How many hashes there were, their buckets included.
    pub(super) hashes: u64,
    /// Where the next step begins; 0 if this was the last one.
    pub(super) next: u64,
}

/// Opens a connection, if need be by each of the Sentinels.
async fn open(
    mode: &RedisMode,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, AdminError> {
    let connector = Connector::new(mode.clone());
    let mut others = match mode {
        RedisMode::Sentinel(SentinelGroup { sentinels, .. }) => 1..sentinels.len(),
        RedisMode::Standalone(_) | RedisMode::Cluster(_) => 0..0,
    };
    loop {
        let client = connector.client().map_err(AdminError::Failed)?;
        match Connector::connect(&client, config).await {
            Ok(connection) => return Ok(connection),
            Err(failure) if others.next().is_none() => {
                return Err(AdminError::Failed(failure.to_string()));
            }
            Err(_) => {}
        }
    }
}

impl AdminConnection {
    /// Connects to a Redis that is not a node of a cluster: its keys would be spread over nodes.
    pub(super) async fn connect(mode: &RedisMode, keys: &Keys) -> Result<Self, AdminError> {
        let config = Self::config();
        let mut connection = open(mode, &config).await?;
        let mut of_two_slots = cmd("EVAL");
        of_two_slots.arg("return 1").arg(2).arg(keys.layout());
        of_two_slots.arg(format!("{}0", keys.cursors_prefix()));
        match of_two_slots.query_async::<Value>(&mut connection).await {
            Err(error) if is_cluster(&error) => Err(AdminError::Failed(IS_CLUSTER.to_owned())),
            // Whatever else is refused, the command itself will say.
            _ => Ok(Self { redis: connection, of_cluster: None }),
        }
    }

    /// Returns the settings of connections.
    pub(super) fn config() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT))
    }

    /// Creates the connection to the master of a cluster's partition.
    pub(super) fn of_partition(
        masters: &Arc<Masters>,
        partition: usize,
    ) -> Result<Self, AdminError> {
        let redis = masters.of_partition(partition).map_err(AdminError::Failed)?;
        Ok(Self { redis, of_cluster: Some((Arc::clone(masters), partition)) })
    }

    /// Creates it on a connection to one Redis.
    pub(super) fn on(redis: MultiplexedConnection) -> Self {
        Self { redis, of_cluster: None }
    }

    /// Sends a command.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let tries = Tries::begin();
        loop {
            match command.query_async(&mut self.redis).await {
                Err(error) if self.finds_again(&classify(error.clone()), tries).await => {}
                done => return done,
            }
        }
    }

    /// Returns whether a step is to be done again: in a cluster, after the masters were looked for, if they
    /// may be others.
    pub(super) async fn finds_again(&mut self, error: &StoreError, tries: Tries) -> bool {
        let Some((masters, partition)) = self.of_cluster.clone() else { return false };
        if !may_be_elsewhere(error) || tries.0.elapsed() >= PATIENCE {
            return false;
        }
        sleep(RETRY_PAUSE).await;
        // While there is none, the next try fails too.
        if masters.look().await.is_ok()
            && let Ok(redis) = masters.of_partition(partition)
        {
            self.redis = redis;
        }
        true
    }

    /// Returns what a single command is sent to.
    pub(super) fn redis(&mut self) -> &mut MultiplexedConnection {
        &mut self.redis
    }

    pub(super) async fn layout_fields(&mut self, keys: &Keys) -> RedisResult<Fields> {
        let mut read = cmd("HMGET");
        read.arg(keys.layout()).arg("version").arg("partitions").arg("key");
        self.query(&read).await
    }

    /// Does one step of SCAN. Returns the cursor of the next one, and the keys.
    pub(super) async fn scan(
        &mut self,
        from: u64,
        pattern: &str,
        kind: Option<&str>,
    ) -> RedisResult<(u64, Vec<String>)> {
        let mut step = cmd("SCAN");
        step.arg(from).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
        if let Some(kind) = kind {
            step.arg("TYPE").arg(kind);
        }
        self.query(&step).await
    }

    /// Does one step of SCAN over the readers who have cursors.
    pub(super) async fn readers(&mut self, keys: &Keys, from: u64) -> RedisResult<ScannedReaders> {
        let prefix = keys.cursors_prefix();
        let (next, hashes) = self.scan(from, &format!("{prefix}*"), Some("hash")).await?;
        // A bucket's key has more than the reader behind the prefix.
        let reader = |key: &String| key.strip_prefix(&prefix)?.parse::<UserId>().ok();
        let mut readers: Vec<_> = hashes.iter().filter_map(reader).collect();
        readers.sort_unstable();
        readers.dedup();
        Ok(ScannedReaders {
            found: readers,
            hashes: u64::try_from(hashes.len()).unwrap_or(u64::MAX),
            next,
        })
    }

    /// Runs a script once.
    pub(super) async fn run(
        &mut self,
        script: &Script,
        fill: impl Fn(Cmd) -> Cmd,
    ) -> Result<Value, StoreError> {
        let mut replies = self.run_all(script, &[()], |call, ()| fill(call)).await?;
        replies.pop().ok_or_else(|| StoreError::corrupt("a pipeline has no reply"))
    }

    /// Runs a script once for each item, in one pipeline.
    pub(super) async fn run_all<T>(
        &mut self,
        script: &Script,
        items: &[T],
        fill: impl Fn(Cmd, &T) -> Cmd,
    ) -> Result<Vec<Value>, StoreError> {
        let calls = |call: fn(&Script) -> Cmd| {
            let mut calls = pipe();
            for item in items {
                calls.add_command(fill(call(script), item));
            }
            calls
        };
        let tries = Tries::begin();
        let replies = loop {
            let sent: Result<Vec<Value>, RedisError> =
                calls(Script::by_digest).query_async(&mut self.redis).await;
            let sent = match sent {
                Err(error) if lost_script(&error) => {
                    calls(Script::by_source).query_async(&mut self.redis).await
                }
                sent => sent,
            };
            match sent.map_err(classify) {
                Ok(replies) => break replies,
                Err(error) if self.finds_again(&error, tries).await => {}
                Err(error) => return Err(script.locate(error)),
            }
        };
        if replies.len() != items.len() {
            return Err(StoreError::corrupt("a pipeline has another number of replies"));
        }
        Ok(replies)
    }
}
