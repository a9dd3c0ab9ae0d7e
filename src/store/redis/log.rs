//! The log of one partition: its stream, as watchers read it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout_at};

use super::node::Node;
use super::partitions::PartitionStore;
use super::store::RedisStore;
use super::stream;
use crate::domain::{EntryId, Position};
use crate::store::{Entries, LogBounds, StoreError};

/// The log of one partition.
pub(super) struct PartitionLog<'a> {
    store: &'a RedisStore,
    partition: &'a PartitionStore,
}

impl RedisStore {
    /// Returns the log of a partition.
    pub(super) fn log(&self, number: usize) -> Result<PartitionLog<'_>, StoreError> {
        let partition = self.shared.partitions.all().get(number);
        let partition = partition.ok_or_else(StoreError::missing_result)?;
        Ok(PartitionLog { store: self, partition })
    }
}

impl PartitionLog<'_> {
    pub(super) async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let partition = self.partition;
        let read = if partition.slot.is_some() {
            self.wait_tracked(after.entry(), limit, wait).await
        } else {
            let mut connection = partition.node()?.connections().tail()?;
            let stream = partition.keys.stream();
            stream::wait(&mut connection, stream, after.entry(), limit, wait).await
        };
        self.note(read).inspect(|read| partition.stream_history.note_read(read))
    }

    /// Waits for what the connection for the tail is told of: it serves the streams of many partitions.
    async fn wait_tracked(
        &self,
        after: EntryId,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let PartitionStore { keys, tail_signal, .. } = self.partition;
        let until = Instant::now() + wait;
        loop {
            tail_signal.begin();
            let mut connection = self.partition.node()?.connections().tail()?;
            let read = stream::read(&mut connection, keys.stream(), after, limit).await?;
            if read.count > 0 || timeout_at(until, tail_signal.wait()).await.is_err() {
                return Ok(read);
            }
        }
    }

    pub(super) async fn entries(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Entries, StoreError> {
        let stream = self.partition.keys.stream();
        let read = self.read(async |mut connection| {
            stream::range(&mut connection, stream, after.entry(), limit).await
        });
        self.store.spans.command("XRANGE", 1).record(read).await
    }

    pub(super) async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        let stream = self.partition.keys.stream();
        let read =
            self.read(async |mut connection| stream::newest(&mut connection, stream, limit).await);
        read.await.inspect(|read| self.partition.stream_history.note_read(read))
    }

    pub(super) async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let PartitionStore { keys, stream_history, .. } = self.partition;
        let read = self.read(async |mut connection| stream::bounds(&mut connection, keys).await);
        let bounds = self.store.spans.command("EVAL", 1).record(read).await?;
        // What Redis refuses to keep is known here.
        let gap_before = bounds.gap_before.max(stream_history.gap_before());
        Ok(LogBounds { gap_before, ..bounds })
    }

    async fn read<T>(
        &self,
        read: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let node: std::sync::Arc<Node> = self.partition.node()?;
        let _permit = node.permit()?;
        let read = read(node.connections().calls()?).await;
        self.note(read)
    }

    /// Has the cluster looked at if the partition is elsewhere. The reader tries again by itself.
    fn note<T>(&self, read: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &read
            && self.store.retries_at(error).is_some()
        {
            self.store.shared.note_node_change();
        }
        read
    }
}
