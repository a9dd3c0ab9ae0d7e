//! The store: its parts put together.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::task::{AbortHandle, JoinHandle};

use super::cluster::Cluster;
use super::connection::layout::LayoutMismatch;
use super::connection::mode::{ClusterSeeds, Connector, RedisMode};
use super::connection::roles;
use super::errors::{classify, is_layout_change, lost_script};
use super::gate::Weight;
use super::marks::acks::{Way, asking};
use super::marks::group_commit::LAYOUT_ATTEMPTS;
use super::marks::script_call::MarkReadScript;
use super::marks::users::UserCache;
use super::node::{Node, NodeMaker};
use super::nonces::NonceScript;
use super::partitions::{PartitionStore, Partitions};
use super::parts::Shared;
use super::placement::Placement;
use super::reads::{self, PageCall, PageReply, ReadScripts, in_order_of};
use super::relay::RelayScripts;
use super::retry::Route;
use super::scripts::{self, Script};
use super::settings::{Access, Ack, RedisConfig};
use super::spans::Spans;
use crate::domain::{CursorPage, ListPosition, ReadOutcome, UserId};
use crate::net::workers::Workers;
use crate::store::{HealthReceiver, StoreError};
use crate::telemetry::metrics::{self, StoreTimer};

/// Script calls by which one page moves its reader's cursors to the current placement: each moves up to
/// 128, and other calls are served between them.
const MOVES_OF_A_PAGE: usize = 64;
const MOVE_WEIGHT: Weight = Weight::of_marks(128);

/// Cursors, quotas and events in Redis.
#[derive(Debug)]
pub struct RedisStore {
    pub(super) shared: Arc<Shared>,
    pub(super) reads: ReadScripts,
    pub(super) nonces: NonceScript,
    pub(super) relay: RelayScripts,
    pub(super) users: UserCache,
    pub(super) spans: Arc<Spans>,
    pub(super) timers: Timers,
    pub(super) cluster: Option<Arc<Cluster>>,
    /// Whether Sentinels name another master when this one is lost.
    pub(super) has_sentinels: bool,
    health: HealthReceiver,
    supervisor: AbortHandle,
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
        // Partitions and nodes refer to each other.
        for partition in self.shared.partitions.all() {
            partition.set_node(None);
        }
    }
}

impl RedisStore {
    /// Creates a store, and starts the task that keeps it connected until it is dropped. The task ends
    /// by itself only if the first Redis it meets has another layout.
    ///
    /// Each worker has a connection for its calls to each Redis.
    pub fn start(config: RedisConfig, workers: Workers) -> (Arc<Self>, JoinHandle<LayoutMismatch>) {
        metrics::set_stream_maxlen(config.stream_maxlen);
        let (stream, user_prefix) = (&config.stream, &config.user_key_prefix);
        let partitions = match &config.mode {
            RedisMode::Standalone(_) | RedisMode::Sentinel(_) => {
                Partitions::single(stream, user_prefix)
            }
            RedisMode::Cluster(ClusterSeeds { partitions, .. }) => {
                Partitions::of_cluster(*partitions, stream, user_prefix)
            }
        };
        let spans = Arc::new(Spans::new(&config.mode));
        let is_cluster = matches!(config.mode, RedisMode::Cluster(_));
        let has_sentinels = matches!(config.mode, RedisMode::Sentinel(_));
        let shared = Arc::new(Shared::new(partitions, &config, is_cluster));
        let stream_limit = Arc::clone(&shared.stream_limit);
        let marks = Arc::new(MarkReadScript::new(stream_limit, config.rate_limit, is_cluster));
        let reads = ReadScripts::new(config.read_rate_limit);
        let nonces = NonceScript::new(config.rate_limit);
        let others = [&reads.states, &reads.list, &reads.take, &reads.moves, &nonces.script];
        let relay = RelayScripts::new();
        let load = match config.access {
            Access::Serve => scripts::load(marks.all().chain(others)),
            Access::Relay => scripts::load(relay.feeds.all()),
        };
        let nodes = NodeMaker { shared: Arc::clone(&shared), marks, load, workers };
        let (health, cluster, supervisor) = match config.mode {
            RedisMode::Cluster(seeds) => {
                let (cluster, run) = Cluster::new(seeds, nodes);
                (cluster.health(), Some(cluster), tokio::spawn(run))
            }
            mode => {
                let (node, run) = nodes.only(Connector::new(mode));
                let health = node.connections().health();
                if let [only] = shared.partitions.all() {
                    only.set_node(Some(&node));
                }
                (health, None, tokio::spawn(run))
            }
        };
        let store = Self {
            shared,
            reads,
            users: UserCache::new(config.user_object_max_bytes, Arc::clone(&spans)),
            nonces,
            relay,
            spans,
            timers: Timers {
                mark_read: StoreTimer::new("mark_read"),
                use_nonce: StoreTimer::new("use_nonce"),
                read_states: StoreTimer::new("read_states"),
                list_cursors: StoreTimer::new("list_cursors"),
            },
            cluster,
            has_sentinels,
            health,
            supervisor: supervisor.abort_handle(),
        };
        (Arc::new(store), supervisor)
    }

    /// Returns how many connections to each Redis a store of so many workers keeps.
    pub fn connections(workers: usize, ack: Option<Ack>) -> usize {
        roles(workers, ack).count()
    }

    /// Returns the health of Redis, as it changes.
    pub fn health(&self) -> HealthReceiver {
        self.health.clone()
    }

    /// Returns the partition of a reader.
    pub(super) fn partition(&self, reader: UserId) -> &PartitionStore {
        self.shared.partitions.of(reader)
    }

    /// Runs a script that changes no cursor, and costs Redis this much: no replica is waited for.
    pub(super) async fn read<T>(
        &self,
        partition: &PartitionStore,
        script: (&Script, Weight),
        fill: impl Fn(Cmd, &Placement) -> Cmd,
        parse: impl Fn(&Placement, Value) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut route = self.route(partition).await?;
        loop {
            let Route { node, way, .. } = &route;
            let read = self.read_at(node, *way, partition, script, &fill, &parse).await;
            if !route.is_to_be_sent_again(&read).await {
                return read;
            }
        }
    }

    /// Runs it at a node. A call that was not run, since the layout had changed, is sent again.
    async fn read_at<T>(
        &self,
        node: &Node,
        way: Way,
        partition: &PartitionStore,
        (script, weight): (&Script, Weight),
        fill: &impl Fn(Cmd, &Placement) -> Cmd,
        parse: &impl Fn(&Placement, Value) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let PartitionStore { keys, layout, .. } = partition;
        let _permit = node.pass(weight).await?;
        let mut attempts = 0..LAYOUT_ATTEMPTS;
        loop {
            let mut connection = node.connections().calls()?;
            let placement = layout.placement();
            let call = |call| fill(call, &placement);
            let reply = match send(way, call(script.by_digest()), &mut connection).await {
                Err(error) if lost_script(&error) => {
                    send(way, call(script.by_source()), &mut connection).await
                }
                sent => sent,
            };
            let read = reply.map_err(classify).and_then(|reply| parse(&placement, reply));
            let read = read.map_err(|error| script.locate(error));
            if !is_layout_change(&read) || attempts.next().is_none() {
                return read;
            }
            if layout.reread(&mut connection, keys).await? {
                self.shared.note_absent_layout(partition);
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
                PageCall { caller, version: placement.version(), position, limit, is_free }
            };
            let fill = |cmd, placement: &Placement| {
                reads.fill_list(cmd, keys, placement, &call(placement))
            };
            let parse = |placement: &Placement, reply: Value| {
                reads.parse_page(placement, &call(placement), &reply)
            };
            self.read(partition, (&reads.list, Weight::of_cursors(limit)), fill, parse).await
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
        let parse = |_: &Placement, reply: Value| reads::parse_move(&reply);
        for _ in 0..MOVES_OF_A_PAGE {
            if !self.read(partition, (&self.reads.moves, MOVE_WEIGHT), fill, parse).await?.more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Sends a call that waits for no replica.
pub(super) async fn send(
    way: Way,
    call: Cmd,
    connection: &mut redis::aio::MultiplexedConnection,
) -> redis::RedisResult<Value> {
    match way {
        Way::Plain => call.query_async(connection).await,
        Way::Asking => {
            let (reply,) = asking(call).query_async(connection).await?;
            Ok(reply)
        }
    }
}
