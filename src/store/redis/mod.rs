//! The store on Redis.

use std::time::Duration;

use redis::cmd;

use self::errors::classify;
use self::partitions::PartitionStore;
use super::{Cursors, Entries, EventLog, LogBounds, NONCE_KEPT_MS, NonceUse, Nonces, StoreError};
use crate::domain::{Conversation, CursorPage, Nonce, Position, ReadCursor, ReadOutcome, UserId};

mod connection;
mod denials;
mod errors;
mod keys;
mod marks;
mod partitions;
mod parts;
mod probe;
mod reads;
mod scripts;
mod settings;
mod spans;
mod store;
mod stream;
mod stream_limit;

pub use self::connection::address::{RedisAddress, RedisFiles};
pub use self::connection::layout::LayoutMismatch;
pub use self::settings::{RedisConfig, ReplicasAck};
pub use self::store::RedisStore;

#[async_trait::async_trait]
impl Cursors for RedisStore {
    async fn read_states(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.timers.read_states.start();
        let (reads, partition) = (&self.reads, self.partitions.for_reader(caller));
        let fill = |call| reads.fill_states(call, &partition.keys, caller, conversations);
        let read = self.read(partition, &reads.states, fill);
        let reply = self.spans.script("read_states", conversations.len()).record(read).await?;
        reads.parse_states(conversations, &reply)
    }

    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.timers.list_cursors.start();
        let (reads, partition) = (&self.reads, self.partitions.for_reader(caller));
        let fill = |call| reads.fill_list(call, &partition.keys, caller, after, limit);
        let read = self.read(partition, &reads.list, fill);
        let reply = self.spans.script("list_cursors", 1).record(read).await?;
        reads.parse_page(after, limit, &reply)
    }
}

#[async_trait::async_trait]
impl EventLog for RedisStore {
    async fn wait_for_entries(
        &self,
        after: Position,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        stream::wait(&mut connections.tail()?, keys.stream(), after.entry(), wait).await
    }

    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError> {
        let _permit = self.permit()?;
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        let mut connection = connections.calls()?;
        let read = stream::range(&mut connection, keys.stream(), after.entry(), limit);
        self.spans.command("XRANGE", 1).record(read).await
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        let _permit = self.permit()?;
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        stream::newest(&mut connections.calls()?, keys.stream(), limit).await
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let _permit = self.permit()?;
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        let mut connection = connections.calls()?;
        let read = stream::bounds(&mut connection, keys.stream());
        self.spans.command("BATCH", stream::BOUNDS_COMMANDS).record(read).await
    }
}

#[async_trait::async_trait]
impl Nonces for RedisStore {
    async fn use_nonce(&self, nonce: Nonce) -> Result<NonceUse, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.timers.use_nonce.start();
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        let mut connection = connections.calls()?;
        let mut set = cmd("SET");
        set.arg(keys.nonce(&nonce)).arg(1).arg("NX").arg("PX").arg(NONCE_KEPT_MS);
        let set = async { set.query_async(&mut connection).await.map_err(classify) };
        let set: Option<String> = self.spans.command("SET", 1).record(set).await?;
        Ok(if set.is_some() { NonceUse::First } else { NonceUse::Repeated })
    }
}
