//! The store: its parts put together.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{AbortHandle, JoinHandle};

use super::connection::Connections;
use super::connection::layout::LayoutMismatch;
use super::connection::supervisor::Supervisor;
use super::denials::Denials;
use super::errors::{classify, lost_script};
use super::keys::{Keys, Partition};
use super::marks::group_commit::GroupCommit;
use super::marks::script_call::MarkReadScript;
use super::marks::users::UserCache;
use super::nonces::NonceScript;
use super::partitions::{PartitionStore, Partitions};
use super::parts::StoreParts;
use super::reads::ReadScripts;
use super::scripts::{self, Script};
use super::settings::RedisConfig;
use super::spans::Spans;
use super::stream_limit::StreamLimit;
use crate::store::{HealthReceiver, StoreError};
use crate::telemetry::metrics::{self, StoreTimer};

/// Most calls that wait for Redis. One more is refused. At a millisecond a call that is four million
/// calls a second, which only a hanging Redis reaches.
const IN_FLIGHT_MAX: usize = 4096;

/// Cursors, quotas and events in Redis.
#[derive(Debug)]
pub struct RedisStore {
    pub(super) partitions: Partitions,
    pub(super) reads: ReadScripts,
    pub(super) denials: Arc<Denials>,
    pub(super) read_denials: Arc<Denials>,
    pub(super) nonces: NonceScript,
    pub(super) users: UserCache,
    pub(super) spans: Arc<Spans>,
    pub(super) timers: Timers,
    supervisor: AbortHandle,
    in_flight: Semaphore,
}

/// Measures the store's operations, under the names that the metric has.
#[derive(Debug)]
pub(super) struct Timers {
    pub(super) mark_read: StoreTimer,
    pub(super) use_nonce: StoreTimer,
    pub(super) read_states: StoreTimer,
    pub(super) list_cursors: StoreTimer,
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl RedisStore {
    /// Creates a store, and starts the task that keeps it connected until it is dropped. The task ends
    /// by itself only if the first Redis it meets has another layout.
    pub fn start(config: RedisConfig) -> (Arc<Self>, JoinHandle<LayoutMismatch>) {
        let RedisConfig { address, stream, stream_maxlen, stream_max_bytes, rate_limit, .. } =
            config;
        metrics::set_stream_maxlen(stream_maxlen);
        let spans = Arc::new(Spans::new(address.info()));
        let stream_limit = Arc::new(StreamLimit::new(stream_maxlen, stream_max_bytes));
        let marks = MarkReadScript::new(Arc::clone(&stream_limit), rate_limit);
        let reads = ReadScripts::new(config.read_rate_limit);
        let nonces = NonceScript::new(rate_limit);
        let load = scripts::load(&[
            &marks.script,
            &reads.states,
            &reads.list,
            &reads.take,
            &nonces.script,
        ]);
        let parts = StoreParts {
            connections: Arc::new(Connections::new()),
            keys: Arc::new(Keys::new(Partition::Only, stream, config.user_key_prefix)),
            denials: Arc::new(Denials::new()),
            rate_limit,
            stream_limit,
            read_denials: Arc::new(Denials::new()),
            read_rate_limit: config.read_rate_limit,
        };
        let StoreParts { connections, keys, denials, read_denials, .. } = parts.clone();
        let supervisor = tokio::spawn(Supervisor::new(address, parts.clone(), load).run());
        let group_commit = Arc::new(GroupCommit::new(parts, marks, config.replicas_ack));
        let store = Self {
            partitions: Partitions::single(PartitionStore { keys, connections, group_commit }),
            reads,
            denials,
            users: UserCache::new(config.user_object_max_bytes, Arc::clone(&spans)),
            read_denials,
            nonces,
            spans,
            timers: Timers {
                mark_read: StoreTimer::new("mark_read"),
                use_nonce: StoreTimer::new("use_nonce"),
                read_states: StoreTimer::new("read_states"),
                list_cursors: StoreTimer::new("list_cursors"),
            },
            supervisor: supervisor.abort_handle(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        };
        (Arc::new(store), supervisor)
    }

    /// Returns the health of Redis, as it changes.
    pub fn health(&self) -> HealthReceiver {
        self.partitions.only().connections.health()
    }

    /// Acquires the right to call Redis.
    pub(super) fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let permit = self.in_flight.try_acquire();
        permit.map_err(|_| StoreError::unavailable("too many calls wait for Redis"))
    }

    /// Runs a script that writes nothing but a read quota: no replica is waited for.
    pub(super) async fn read(
        &self,
        partition: &PartitionStore,
        script: &Script,
        fill: impl Fn(Cmd) -> Cmd,
    ) -> Result<Value, StoreError> {
        let mut connection = partition.connections.calls()?;
        let reply = match fill(script.by_digest()).query_async(&mut connection).await {
            Err(error) if lost_script(&error) => {
                fill(script.by_source()).query_async(&mut connection).await
            }
            sent => sent,
        };
        reply.map_err(|error| script.locate(classify(error)))
    }
}
