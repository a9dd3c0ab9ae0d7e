//! The logs of the partitions: their streams, as watchers read them.

use std::sync::Arc;
use std::time::Duration;

use super::partitions::PartitionStore;
use super::store::RedisStore;
use super::stream::{self, READ_MAX_ENTRIES};
use super::tail_reads::TailReads;
use crate::domain::Position;
use crate::store::{Entries, EventLog, EventLogs, LogBounds, StoreError};

/// The log of one partition.
struct PartitionLog {
    store: Arc<RedisStore>,
    partition: Arc<PartitionStore>,
    tail_reads: TailReads,
}

impl EventLogs for RedisStore {
    fn logs(self: Arc<Self>) -> Vec<Arc<dyn EventLog>> {
        let partitions = self.shared.partitions.all().iter();
        let log = |partition: &Arc<PartitionStore>| -> Arc<dyn EventLog> {
            let (store, partition) = (Arc::clone(&self), Arc::clone(partition));
            Arc::new(PartitionLog { store, partition, tail_reads: TailReads::default() })
        };
        partitions.map(log).collect()
    }
}

#[async_trait::async_trait]
impl EventLog for PartitionLog {
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let partition = &self.partition;
        let read = if partition.slot.is_some() {
            self.wait_tracked(after, limit, wait).await
        } else {
            let mut connection = partition.node()?.connections().tail()?;
            let stream = partition.keys.stream();
            stream::wait(&mut connection, stream, after.entry(), limit, wait).await
        };
        self.note(read).inspect(|read| partition.stream_history.note_read(read))
    }

    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError> {
        let node = self.partition.node()?;
        let _permit = node.permit()?;
        let mut connection = node.connections().calls()?;
        let stream = self.partition.keys.stream();
        let read = stream::range(&mut connection, stream, after.entry(), limit);
        self.note(self.store.spans.command("XRANGE", 1).record(read).await)
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        let node = self.partition.node()?;
        let _permit = node.permit()?;
        let mut connection = node.connections().calls()?;
        let PartitionStore { keys, stream_history, .. } = &*self.partition;
        let read = stream::newest(&mut connection, keys.stream(), limit).await;
        self.note(read).inspect(|read| stream_history.note_read(read))
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let node = self.partition.node()?;
        let _permit = node.permit()?;
        let mut connection = node.connections().calls()?;
        let PartitionStore { keys, stream_history, .. } = &*self.partition;
        let read = stream::bounds(&mut connection, keys);
        let bounds = self.note(self.store.spans.command("EVAL", 1).record(read).await)?;
        // What Redis refuses to keep is known here.
        let gap_before = bounds.gap_before.max(stream_history.gap_before());
        Ok(LogBounds { gap_before, ..bounds })
    }
}

impl PartitionLog {
    /// Waits for what the connection for the tail is told of: it serves the streams of many partitions.
    async fn wait_tracked(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let PartitionStore { keys, tail_signal, .. } = &*self.partition;
        let limit = limit.min(READ_MAX_ENTRIES);
        let read = async || {
            let mut connection = self.partition.node()?.connections().tail()?;
            stream::read(&mut connection, keys.stream(), after.entry(), limit).await
        };
        self.tail_reads.wait(tail_signal, (after, limit), wait, read).await
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
