//! Partitions: shares of the readers. All keys of a reader, and the stream of its events, are in one
//! partition, since a script may only touch keys of one. One Redis has one partition; a cluster has many,
//! each in one slot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::cluster::tags::{Tag, partition_of, tags};
use super::connection::layout::KnownLayout;
use super::connection::stream_history::StreamHistory;
use super::connection::tail_signal::TailSignal;
use super::keys::{Keys, Partition};
use super::node::Node;
use crate::domain::UserId;
use crate::store::StoreError;

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
    /// Whether that is a layout which this server does not know: then no call may go to its node.
    is_closed: AtomicBool,
}

impl PartitionStore {
    fn new(number: usize, keys: Keys, slot: Option<u16>) -> Self {
        let (layout, stream_history, tail_signal, trouble) = Default::default();
        let (node, is_closed) = Default::default();
        Self { number, keys, slot, layout, stream_history, tail_signal, node, trouble, is_closed }
    }

    /// Returns the node that has it.
    pub(crate) fn node(&self) -> Result<Arc<Node>, StoreError> {
        let node = self.node.load_full().filter(|_| !self.is_closed.load(Ordering::Relaxed));
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
            self.tail_signal.notify();
        }
        is_another
    }

    /// Sets whether no call may go to its node, though there is one.
    pub(crate) fn set_closed(&self, is_closed: bool) {
        self.is_closed.store(is_closed, Ordering::Relaxed);
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
        Self(Box::new([Arc::new(PartitionStore::new(0, keys, None))]))
    }

    /// Creates the partitions of a cluster.
    pub(crate) fn of_cluster(count: u16, stream: &str, user_prefix: &str) -> Self {
        let partition = |(number, Tag { tag, slot })| {
            let keys = Keys::new(Partition::Tagged { tag, count }, stream, user_prefix);
            Arc::new(PartitionStore::new(number, keys, Some(slot)))
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
