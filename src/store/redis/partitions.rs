//! Partitions: shares of the readers. All keys of a reader, and the stream of its events, are in one
//! partition, since a script may only touch keys of one. One Redis has one partition; a cluster has many,
//! each in one slot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

use super::cluster::tags::{Tag, partition_of, tags};
use super::connection::Connections;
use super::connection::layout::KnownLayout;
use super::connection::stream_history::StreamHistory;
use super::connection::tail_signal::TailSignal;
use super::keys::{Keys, Partition};
use super::node::Node;
use crate::domain::UserId;
use crate::store::StoreError;

/// Calls that wait to be sent again: of the only partition, and of each of a cluster's, so that one that is
/// away keeps no others from that. One more is answered with what Redis said.
const RETRIES: usize = 1024;
const RETRIES_OF_EACH: usize = 128;

/// What is known of one partition, and which node has it.
#[derive(Debug)]
pub(crate) struct PartitionStore {
    /// Its number, from 0.
    pub(crate) number: usize,
    pub(crate) keys: Keys,
    /// The slot of its keys, if it is one of a cluster's.
    pub(crate) slot: Option<u16>,
    pub(crate) layout: KnownLayout,
    pub(crate) stream_history: StreamHistory,
    /// Tells of new entries, in a cluster.
    pub(crate) tail_signal: TailSignal,
    node: ArcSwapOption<Node>,
    /// Why it is not served.
    trouble: Mutex<Option<String>>,
    /// Whether the layout was found at its node, and is known. In a cluster no call goes there before.
    is_open: AtomicBool,
    /// Calls that wait to be sent again.
    pub(super) retries: Semaphore,
}

impl PartitionStore {
    fn new(number: usize, keys: Keys, slot: Option<u16>, retries: usize) -> Self {
        let (layout, stream_history, tail_signal, trouble) = Default::default();
        let (node, is_open) = (ArcSwapOption::empty(), AtomicBool::new(slot.is_none()));
        let retries = Semaphore::new(retries);
        Self {
            number,
            keys,
            slot,
            layout,
            stream_history,
            tail_signal,
            node,
            trouble,
            is_open,
            retries,
        }
    }

    /// Returns the node that has it.
    pub(crate) fn node(&self) -> Result<Arc<Node>, StoreError> {
        let node = self.node.load_full().filter(|_| self.is_open.load(Ordering::Acquire));
        node.ok_or_else(|| {
            let cause = self.trouble();
            StoreError::unavailable(cause.unwrap_or_else(|| "not connected yet".to_owned()))
        })
    }

    /// Sets the node that has it. Returns whether it is another one than before.
    pub(crate) fn set_node(&self, node: Option<&Arc<Node>>) -> bool {
        let before = self.node.swap(node.cloned());
        let is_another = match (&before, node) {
            (Some(before), Some(node)) => !Arc::ptr_eq(before, node),
            (before, node) => before.is_some() != node.is_some(),
        };
        if is_another {
            // What was found at another node does not hold here.
            self.is_open.store(self.slot.is_none(), Ordering::Release);
            if node.is_some() {
                self.set_trouble(None);
            }
            self.tail_signal.notify();
        }
        is_another
    }

    /// Returns the node that has it, though it may not be served.
    pub(crate) fn assigned(&self) -> Option<Arc<Node>> {
        self.node.load_full()
    }

    /// Takes over what a check at a node has found, unless the partition is elsewhere by now: whether calls may
    /// go there, and why it is not served. Returns whether that is new.
    pub(crate) fn note_check(
        &self,
        connections: &Arc<Connections>,
        is_open: bool,
        trouble: Option<String>,
    ) -> bool {
        let node = self.node.load();
        let is_here = |node: &Arc<Node>| Arc::ptr_eq(&node.parts.connections, connections);
        if self.slot.is_some() && !node.as_ref().is_some_and(is_here) {
            return false;
        }
        let was_open = self.is_open.swap(is_open, Ordering::AcqRel);
        let mut known = self.lock();
        let is_new = was_open != is_open || *known != trouble;
        *known = trouble;
        is_new
    }

    /// Returns why it is not served, if it is not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Sets why it is not served, or that it is.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.lock() = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Partitions(Box<[Arc<PartitionStore>]>);

impl Partitions {
    /// Creates the partition of one Redis.
    pub(crate) fn single(stream: &str, user_prefix: &str) -> Self {
        let keys = Keys::new(Partition::Only, stream, user_prefix);
        Self(Box::new([Arc::new(PartitionStore::new(0, keys, None, RETRIES))]))
    }

    /// Creates the partitions of a cluster.
    pub(crate) fn of_cluster(count: u16, stream: &str, user_prefix: &str) -> Self {
        let partition = |(number, Tag { tag, slot })| {
            let keys = Keys::new(Partition::Tagged { tag, count }, stream, user_prefix);
            Arc::new(PartitionStore::new(number, keys, Some(slot), RETRIES_OF_EACH))
        };
        Self(tags(count).into_iter().enumerate().map(partition).collect())
    }

    /// Returns the partition of a reader.
    #[allow(clippy::indexing_slicing, reason = "the number is below the count")]
    pub(crate) fn of(&self, reader: UserId) -> &Arc<PartitionStore> {
        match &*self.0 {
            [only] => only,
            all => &all[self.number_of(reader)],
        }
    }

    /// Returns the number of a reader's partition.
    pub(crate) fn number_of(&self, reader: UserId) -> usize {
        let count = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        partition_of(reader, count)
    }

    /// Returns the partition whose stream has this key.
    pub(crate) fn of_stream(&self, key: &[u8]) -> Option<&Arc<PartitionStore>> {
        self.0.iter().find(|partition| partition.keys.stream().as_bytes() == key)
    }

    /// Returns all, in the order of their numbers.
    pub(crate) fn all(&self) -> &[Arc<PartitionStore>] {
        &self.0
    }
}
