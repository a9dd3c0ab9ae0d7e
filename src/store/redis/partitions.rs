//! Partitions: shares of the readers. All keys of a reader, and the stream of its events, are in one
//! partition, since a script may only touch keys of one. One Redis has one partition.

use std::sync::Arc;

use super::connection::Connections;
use super::connection::layout::KnownLayout;
use super::keys::Keys;
use super::marks::group_commit::GroupCommit;
use crate::domain::UserId;
use crate::net::workers;
use crate::store::StoreError;

/// The parts of the store that belong to a partition.
#[derive(Debug)]
pub(crate) struct PartitionStore {
    /// The partition's keys.
    pub(crate) keys: Arc<Keys>,
    /// Connections to the Redis that has the partition.
    pub(crate) connections: Arc<Connections>,
    /// The layout of the Redis that has the partition.
    pub(crate) layout: Arc<KnownLayout>,
    /// Shares script calls among the partition's marks: one for each worker, whose marks share them
    /// without another thread.
    pub(crate) group_commits: Box<[Arc<GroupCommit>]>,
}

impl PartitionStore {
    /// Returns the group commit of this thread's worker.
    pub(crate) fn group_commit(&self) -> Result<&Arc<GroupCommit>, StoreError> {
        let own = self.group_commits.get(workers::current()).or_else(|| self.group_commits.first());
        own.ok_or_else(|| StoreError::unavailable("there is no worker"))
    }
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Partitions {
    only: PartitionStore,
}

impl Partitions {
    /// Creates the partitions of one Redis.
    pub(crate) fn single(only: PartitionStore) -> Self {
        Self { only }
    }

    /// Returns the partition of a reader.
    pub(crate) fn for_reader(&self, _reader: UserId) -> &PartitionStore {
        &self.only
    }

    /// Returns the partition of what belongs to no reader: the stream, nonces, health.
    pub(crate) fn only(&self) -> &PartitionStore {
        &self.only
    }
}
