//! The store: its parts put together.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{AbortHandle, JoinHandle};

use super::connection::layout::LayoutMismatch;
use super::connection::stream_history::StreamHistory;
use super::connection::supervisor::Supervisor;
use super::connection::{Connections, roles};
use super::denials::Denials;
use super::errors::{classify, is_layout_change, lost_script};
use super::keys::{Keys, Partition};
use super::marks::group_commit::{GroupCommit, LAYOUT_ATTEMPTS};
use super::marks::script_call::MarkReadScript;
use super::marks::users::UserCache;
use super::nonces::NonceScript;
use super::partitions::{PartitionStore, Partitions};
use super::parts::StoreParts;
use super::placement::Placement;
use super::probe::permissions::PermissionProbe;
use super::reads::{self, PageCall, PageReply, ReadScripts, in_order_of};
use super::scripts::{self, Script};
use super::settings::RedisConfig;
use super::spans::Spans;
use super::stream_limit::StreamLimit;
use crate::domain::{CursorPage, ListPosition, ReadOutcome, UserId};
use crate::net::workers::Workers;
use crate::store::{HealthReceiver, StoreError};
use crate::telemetry::metrics::{self, StoreTimer};

/// Most calls that wait for Redis. One more is refused. At a millisecond a call that is four million
/// calls a second, which only a hanging Redis reaches.
const IN_FLIGHT_MAX: usize = 4096;

/// Script calls by which one page moves its reader's cursors to the current placement: each moves up to
/// 128, and other calls are served between them.
const MOVES_OF_A_PAGE: usize = 64;

/// Cursors, quotas and events in Redis.
#[derive(Debug)]
pub struct RedisStore {
    pub(super) partitions: Partitions,
    pub(super) reads: ReadScripts,
    pub(super) denials: Arc<Denials>,
    pub(super) read_denials: Arc<Denials>,
    pub(super) stream_history: Arc<StreamHistory>,
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
    ///
    /// Each worker has a connection for its calls.
    pub fn start(config: RedisConfig, workers: Workers) -> (Arc<Self>, JoinHandle<LayoutMismatch>) {
        let RedisConfig { address, stream, stream_maxlen, stream_max_bytes, rate_limit, .. } =
            config;
        metrics::set_stream_maxlen(stream_maxlen);
        let spans = Arc::new(Spans::new(address.info()));
        let stream_limit = Arc::new(StreamLimit::new(stream_maxlen, stream_max_bytes));
        let keys = Arc::new(Keys::new(Partition::Only, &stream, &config.user_key_prefix));
        let marks = Arc::new(MarkReadScript::new(Arc::clone(&stream_limit), rate_limit));
        let reads = ReadScripts::new(config.read_rate_limit);
        let nonces = NonceScript::new(rate_limit);
        let others = [&reads.states, &reads.list, &reads.take, &reads.moves, &nonces.script];
        let load = scripts::load(marks.all().chain(others));
        let parts = StoreParts {
            connections: Arc::new(Connections::new(workers.count())),
            permissions: Arc::new(PermissionProbe::new(&keys, config.replicas_ack)),
            keys,
            layout: Arc::default(),
            stream_history: Arc::default(),
            denials: Arc::new(Denials::new()),
            rate_limit,
            replicas_ack: config.replicas_ack,
            stream_limit,
            read_denials: Arc::new(Denials::new()),
            read_rate_limit: config.read_rate_limit,
        };
        let StoreParts { connections, keys, layout, denials, read_denials, .. } = parts.clone();
        let stream_history = Arc::clone(&parts.stream_history);
        let group_commit = |_| Arc::new(GroupCommit::new(parts.clone(), Arc::clone(&marks)));
        let group_commits = (0..workers.count()).map(group_commit).collect();
        let supervisor = tokio::spawn(Supervisor::new(address, parts, load, workers).run());
        let store = Self {
            partitions: Partitions::single(PartitionStore {
                keys,
                connections,
                layout,
                group_commits,
            }),
            reads,
            denials,
            users: UserCache::new(config.user_object_max_bytes, Arc::clone(&spans)),
            read_denials,
            stream_history,
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

    /// Returns how many connections to Redis a store of so many workers keeps.
    pub fn connections(workers: usize) -> usize {
        roles(workers).count()
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

    /// Runs a script that changes no cursor: no replica is waited for. A call that was not run, since the
    /// layout had changed, is sent again.
    pub(super) async fn read<T>(
        &self,
        partition: &PartitionStore,
        script: &Script,
        fill: impl Fn(Cmd, &Placement) -> Cmd,
        parse: impl Fn(&Placement, &Value) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let PartitionStore { keys, connections, layout, .. } = partition;
        let mut attempts = 0..LAYOUT_ATTEMPTS;
        loop {
            let mut connection = connections.calls()?;
            let placement = layout.placement();
            let call = |call| fill(call, &placement);
            let reply = match call(script.by_digest()).query_async(&mut connection).await {
                Err(error) if lost_script(&error) => {
                    call(script.by_source()).query_async(&mut connection).await
                }
                sent => sent,
            };
            let read = reply.map_err(classify).and_then(|reply| parse(&placement, &reply));
            let read = read.map_err(|error| script.locate(error));
            if !is_layout_change(&read) || attempts.next().is_none() {
                return read;
            }
            if layout.reread(&mut connection, keys).await? {
                self.denials.clear();
                self.read_denials.clear();
                self.stream_history.note_absent_layout();
            }
        }
    }

    /// Reads a page of cursors. If they are still in the old placement, they are moved first; if they are
    /// too many for one call, the page is empty and the next one goes on with it.
    pub(super) async fn list(
        &self,
        partition: &PartitionStore,
        caller: UserId,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        let (reads, keys) = (&self.reads, &partition.keys);
        let list = async |is_free| {
            let call = |placement: &Placement| {
                let beginning = ListPosition::beginning(placement.order());
                let position = in_order_of(placement, after.unwrap_or(beginning));
                PageCall { caller, position, limit, is_free }
            };
            let fill = |cmd, placement: &Placement| {
                reads.fill_list(cmd, keys, placement, &call(placement))
            };
            let parse = |placement: &Placement, reply: &Value| {
                reads.parse_page(placement, &call(placement), reply)
            };
            self.read(partition, &reads.list, fill, parse).await
        };
        let (mut read, quota) = match list(false).await? {
            ReadOutcome::Served { read, quota } => (read, quota),
            ReadOutcome::OverQuota { quota, retry_after } => {
                return Ok(ReadOutcome::OverQuota { quota, retry_after });
            }
        };
        if let PageReply::Moving = read
            && self.move_reader(partition, caller).await?
            && let ReadOutcome::Served { read: page, .. } = list(true).await?
        {
            read = page;
        }
        let read = match read {
            PageReply::Page(page) => page,
            PageReply::Moving => {
                let order = partition.layout.placement().order();
                let next = after.unwrap_or(ListPosition::beginning(order));
                CursorPage { cursors: Vec::new(), next: Some(next) }
            }
        };
        Ok(ReadOutcome::Served { read, quota })
    }

    /// Moves a reader's cursors to the current placement, as many as one call may. Returns whether all
    /// are moved.
    async fn move_reader(
        &self,
        partition: &PartitionStore,
        reader: UserId,
    ) -> Result<bool, StoreError> {
        let keys = &partition.keys;
        let fill =
            |call, placement: &Placement| reads::fill_move(call, keys, placement.version(), reader);
        let parse = |_: &Placement, reply: &Value| reads::parse_move(reply);
        for _ in 0..MOVES_OF_A_PAGE {
            if !self.read(partition, &self.reads.moves, fill, parse).await?.more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
