//! The store on Redis.

use std::time::{Duration, Instant};

use redis::Value;

use self::denials::Generation;
use self::partitions::PartitionStore;
use self::placement::Placement;
use super::{Cursors, Entries, EventLog, LogBounds, StoreError};
use crate::domain::{
    Conversation, CursorPage, ListPosition, Position, ReadCursor, ReadOutcome, UserId,
};

mod admin;
mod cluster;
mod connection;
mod denials;
mod errors;
mod keys;
mod marks;
mod nonces;
mod partitions;
mod parts;
mod permissions;
mod placement;
mod probe;
mod reads;
mod scripts;
mod settings;
mod spans;
mod store;
mod stream;
mod stream_limit;

pub use self::admin::{
    AdminError, CursorAdmin, CursorErasure, Erasure, EventErasure, KeyProgress, LayoutAdmin,
    Progress, PutError, PutOutcome, PutReply, PutRule, ReaderProblem, Readers, RecipientErasure,
};
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
        if let Some(denial) = self.cached_read_denial(caller) {
            return Ok(denial);
        }
        let _permit = self.permit()?;
        let _timing = self.timers.read_states.start();
        let (reads, partition) = (&self.reads, self.partitions.for_reader(caller));
        let fill = |call, placement: &Placement| {
            reads.fill_states(call, &partition.keys, placement, caller, conversations)
        };
        let parse = |_: &Placement, reply: &Value| reads.parse_states(conversations, reply);
        let asked = self.ask_reads();
        let read = self.read(partition, &reads.states, fill, parse);
        let read = self.spans.script("read_states", conversations.len()).record(read).await;
        self.remember_read_denial(caller, asked, read)
    }

    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        if let Some(denial) = self.cached_read_denial(caller) {
            return Ok(denial);
        }
        let _permit = self.permit()?;
        let _timing = self.timers.list_cursors.start();
        let asked = self.ask_reads();
        let list = self.list(self.partitions.for_reader(caller), caller, after, limit);
        let listed = self.spans.script("list_cursors", 1).record(list).await;
        self.remember_read_denial(caller, asked, listed)
    }

    fn denies_reads(&self, caller: UserId) -> bool {
        self.read_denials.get(caller).is_some()
    }
}

/// When a read was sent to Redis, for the denial that may be its answer.
#[derive(Clone, Copy)]
struct ReadCall {
    at: Instant,
    generation: Generation,
}

impl RedisStore {
    fn cached_read_denial<T>(&self, caller: UserId) -> Option<ReadOutcome<T>> {
        let (quota, retry_after) = self.read_denials.get(caller)?;
        Some(ReadOutcome::OverQuota { quota, retry_after })
    }

    fn ask_reads(&self) -> ReadCall {
        ReadCall { generation: self.read_denials.generation(), at: Instant::now() }
    }

    fn remember_read_denial<T>(
        &self,
        caller: UserId,
        asked: ReadCall,
        outcome: Result<ReadOutcome<T>, StoreError>,
    ) -> Result<ReadOutcome<T>, StoreError> {
        if let Ok(ReadOutcome::OverQuota { quota, retry_after }) = &outcome {
            // Redis read its clock after this one: the denial ends a moment early.
            let until = asked.at.checked_add(*retry_after);
            self.read_denials.insert(caller, *quota, until, asked.generation);
        }
        outcome
    }
}

#[async_trait::async_trait]
impl EventLog for RedisStore {
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        let mut connection = connections.tail()?;
        let read = stream::wait(&mut connection, keys.stream(), after.entry(), limit, wait);
        read.await.inspect(|read| self.stream_history.note_read(read))
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
        let mut connection = connections.calls()?;
        let read = stream::newest(&mut connection, keys.stream(), limit);
        read.await.inspect(|read| self.stream_history.note_read(read))
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let _permit = self.permit()?;
        let PartitionStore { keys, connections, .. } = self.partitions.only();
        let mut connection = connections.calls()?;
        let read = stream::bounds(&mut connection, keys);
        let bounds = self.spans.command("EVAL", 1).record(read).await?;
        // What Redis refuses to keep is known here.
        let gap_before = bounds.gap_before.max(self.stream_history.gap_before());
        Ok(LogBounds { gap_before, ..bounds })
    }

    async fn take_reads(&self, watcher: UserId, reads: u64) -> Result<ReadOutcome<()>, StoreError> {
        if let Some(denial) = self.cached_read_denial(watcher) {
            return Ok(denial);
        }
        let _permit = self.permit()?;
        let (scripts, partition) = (&self.reads, self.partitions.for_reader(watcher));
        let fill = |call, _: &Placement| scripts.fill_take(call, &partition.keys, watcher, reads);
        let parse = |_: &Placement, reply: &Value| scripts.parse_states(&[], reply);
        let asked = self.ask_reads();
        let taken = self.read(partition, &scripts.take, fill, parse);
        let taken = self.spans.script("take_reads", 1).record(taken).await;
        self.remember_read_denial(watcher, asked, taken.map(ReadOutcome::without_result))
    }
}
