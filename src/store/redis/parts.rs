//! Parts of the store that several others share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::connection::Connections;
use super::connection::link::Role;
use super::denials::Denials;
use super::keys::{Keys, Partition};
use super::marks::across_slots;
use super::partitions::{PartitionStore, Partitions};
use super::probe::permissions::PermissionProbe;
use super::probe::totals::Totals;
use super::settings::{Access, Ack, RedisConfig};
use super::stream_limit::StreamLimit;
use crate::domain::RateLimit;

/// What all nodes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) partitions: Partitions,
    /// Readers whose quota of marks is used up.
    pub(crate) denials: Denials,
    pub(crate) rate_limit: RateLimit,
    pub(crate) ack: Option<Ack>,
    /// Readers whose quota of reads is used up.
    pub(crate) read_denials: Denials,
    pub(crate) read_rate_limit: RateLimit,
    pub(crate) stream_limit: Arc<StreamLimit>,
    pub(crate) permissions: PermissionProbe,
    pub(crate) access: Access,
    pub(crate) totals: Totals,
    /// Whether a Redis has been served from.
    pub(crate) has_served: AtomicBool,
    /// In a cluster, notified when its nodes may have changed, and when its health may have.
    pub(crate) changes: Option<ClusterChanges>,
}

/// What the supervisors of a cluster's nodes report.
#[derive(Debug, Default)]
pub(crate) struct ClusterChanges {
    /// A node answered that a slot is elsewhere, or is gone.
    pub(crate) nodes: Notify,
    /// A node or a partition became healthy, or ceased to be.
    pub(crate) health: Notify,
}

impl Shared {
    /// Creates it for these partitions.
    pub(crate) fn new(partitions: Partitions, config: &RedisConfig, is_cluster: bool) -> Self {
        let streams = partitions.all().len();
        let keys = partitions.all().first().map(|first| first.keys.clone());
        let keys = keys.unwrap_or_else(|| Keys::new(Partition::Only, "", ""));
        Self {
            permissions: PermissionProbe::new(&keys, config.access, config.ack),
            access: config.access,
            partitions,
            denials: Denials::new(),
            rate_limit: config.rate_limit,
            ack: config.ack,
            read_denials: Denials::new(),
            read_rate_limit: config.read_rate_limit,
            stream_limit: Arc::new(StreamLimit::new(
                config.stream_maxlen,
                config.stream_max_bytes,
                streams,
            )),
            totals: Totals::default(),
            has_served: AtomicBool::new(false),
            changes: is_cluster.then(ClusterChanges::default),
        }
    }

    /// Forgets all denials: another Redis may answer, or one was flushed.
    pub(crate) fn clear_denials(&self) {
        self.denials.clear();
        self.read_denials.clear();
    }

    /// Notes that a partition's layout was absent: its Redis was probably flushed.
    pub(crate) fn note_absent_layout(&self, partition: &PartitionStore) {
        self.clear_denials();
        partition.stream_history.note_absent_layout();
    }

    /// Notes that the nodes of the cluster may have changed.
    pub(crate) fn note_node_change(&self) {
        if let Some(changes) = &self.changes {
            changes.nodes.notify_one();
        }
    }

    /// Notes that the health may have changed.
    pub(crate) fn note_health_change(&self) {
        if let Some(changes) = &self.changes {
            changes.health.notify_one();
        }
    }
}

/// Parts of the store that work on one node.
#[derive(Clone, Debug)]
pub(crate) struct NodeParts {
    /// Its address, in a cluster.
    pub(crate) name: Arc<str>,
    pub(crate) connections: Arc<Connections>,
    /// The partitions that the node has.
    pub(crate) served: Arc<ArcSwap<Vec<Arc<PartitionStore>>>>,
    /// Notified when it got one.
    pub(crate) partitions_came: Arc<Notify>,
    pub(crate) shared: Arc<Shared>,
    /// Whether a script may use several slots, once the node has said so.
    pub(crate) shares_slots: Arc<OnceLock<bool>>,
}

impl NodeParts {
    /// Sets the partitions that the node has. New ones are checked at once.
    pub(crate) fn set_served(&self, served: Vec<Arc<PartitionStore>>) {
        let before = self.served.swap(Arc::new(served));
        let now = self.served.load();
        if now.iter().any(|one| !before.iter().any(|known| known.number == one.number)) {
            self.partitions_came.notify_one();
        }
    }

    /// Returns whether the node is one of a cluster.
    pub(crate) fn is_of_cluster(&self) -> bool {
        self.shared.changes.is_some()
    }

    /// Returns whether marks of several partitions may share a script call.
    pub(crate) fn may_share_slots(&self) -> bool {
        self.shares_slots.get() == Some(&true)
    }

    /// Finds that out, unless it is known.
    pub(crate) async fn learn_whether_slots_are_shared(
        &self,
        connection: &mut MultiplexedConnection,
    ) {
        let is_known = self.shared.changes.is_none() || self.shares_slots.get().is_some();
        // The relay has no marks.
        if is_known || self.shared.access == Access::Relay {
            return;
        }
        let Some(allowed) = across_slots::are_allowed(self, connection).await else { return };
        if let Err(cause) = &allowed {
            tracing::warn!(
                redis = &*self.name,
                ?cause,
                "marks of several partitions do not share script calls: this Redis refuses scripts over \
                 several slots"
            );
        }
        let _ = self.shares_slots.set(allowed.is_ok());
    }

    /// Returns whose changes a connection is told of: the one for the tail of a cluster's streams.
    pub(crate) fn tracked_by(&self, role: Role) -> Option<Arc<Shared>> {
        let is_tracking = role == Role::Tail && self.shared.changes.is_some();
        is_tracking.then(|| Arc::clone(&self.shared))
    }

    /// Has the node's streams read: what changed before a connection was put to use was not reported.
    pub(crate) fn notify_tails(&self) {
        self.served.load().iter().for_each(|partition| partition.tail_signal.notify());
    }

    /// Creates the parts of a node that has these partitions.
    pub(crate) fn new(
        name: &str,
        connections: Connections,
        served: Vec<Arc<PartitionStore>>,
        shared: Arc<Shared>,
    ) -> Self {
        let served = Arc::new(ArcSwap::from_pointee(served));
        let (name, connections) = (Arc::from(name), Arc::new(connections));
        let (partitions_came, shares_slots) = Default::default();
        Self { name, connections, served, partitions_came, shared, shares_slots }
    }
}
