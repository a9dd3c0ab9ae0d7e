//! The store on Redis.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::Value;
use tokio::time::Instant;

use self::denials::Generation;
use self::gate::Weight;
use self::partitions::PartitionStore;
use self::placement::Placement;
use self::reads::StatesCall;
use super::{Cursors, ReadQuotas, StoreError};
use crate::domain::{Conversation, CursorPage, ListPosition, ReadCursor, ReadOutcome, UserId};

mod admin;
mod cluster;
mod connection;
mod denials;
mod errors;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod keys;
mod line;
mod marks;
mod node;
mod nonces;
mod partition_log;
mod partitions;
mod parts;
mod permissions;
mod placement;
mod probe;
mod reads;
mod relay;
mod retry;
mod scripts;
mod sentinel;
mod settings;
mod spans;
mod store;
mod stream;
mod stream_limit;
mod tail_reads;

pub use self::admin::{
    AdminError, CursorAdmin, CursorErasure, Erasure, EventErasure, FoundReaders, KeyProgress,
    LayoutAdmin, Migration, MoveGoal, MoveProgress, MoveReport, MoveSummary, Progress, PutError,
    PutOutcome, PutReply, PutRule, ReaderProblem, RecipientErasure, StoreAdmin, StoreScan,
    name_destination_flags, printable,
};
pub use self::connection::address::{RedisAddress, RedisFiles, RedisFlags};
pub use self::connection::layout::LayoutMismatch;
pub use self::connection::mode::{ClusterSeeds, RedisMode};
pub use self::sentinel::SentinelGroup;
pub use self::settings::{Access, Ack, RedisConfig};
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
        let _timing = self.timers.read_states.start();
        let asked = self.ask_reads();
        let read = self.read_states_of_all(caller, conversations);
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
        let _timing = self.timers.list_cursors.start();
        let asked = self.ask_reads();
        let list = self.list(self.partition(caller), caller, after, limit);
        let listed = self.spans.script("list_cursors", 1).record(list).await;
        self.remember_read_denial(caller, asked, listed)
    }

    fn denies_reads(&self, caller: UserId) -> bool {
        self.shared.read_denials.get(caller).is_some()
    }
}

/// When a read was sent to Redis, for the denial that may be its answer.
#[derive(Clone, Copy)]
struct ReadCall {
    at: Instant,
    generation: Generation,
}

impl RedisStore {
    /// Asks each partition once for the cursors that it has, all at the same time. The caller's partition
    /// has the quota.
    async fn read_states_of_all(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        let own = self.partition(caller);
        let is_own =
            |conversation: &Conversation| self.partition(conversation.reader).number == own.number;
        if conversations.iter().all(is_own) {
            return self
                .read_states_at(own, caller, StatesCall { conversations, is_free: false })
                .await;
        }
        let mut places = BTreeMap::<usize, Vec<usize>>::from([(own.number, Vec::new())]);
        for (place, conversation) in conversations.iter().enumerate() {
            let number = self.partition(conversation.reader).number;
            places.entry(number).or_default().push(place);
        }
        let reads = places.into_iter().map(|(number, places)| async move {
            let of_these = places.iter().filter_map(|place| conversations.get(*place)).copied();
            let of_these: Vec<_> = of_these.collect();
            let call = StatesCall { conversations: &of_these, is_free: number != own.number };
            let read = match self.shared.partitions.all().get(number) {
                Some(partition) => self.read_states_at(partition, caller, call).await,
                None => Err(StoreError::missing_result()),
            };
            (number, places, read)
        });
        let (of_caller, others): (Vec<_>, Vec<_>) =
            join_all(reads).await.into_iter().partition(|(number, ..)| *number == own.number);
        let mut all = vec![None; conversations.len()];
        let mut caller_quota = None;
        // The caller's quota decides, whatever the other partitions say.
        for (number, places, read) in of_caller.into_iter().chain(others) {
            let (read, quota) = match read? {
                ReadOutcome::Served { read, quota } => (read, quota),
                ReadOutcome::OverQuota { quota, retry_after } => {
                    return Ok(ReadOutcome::OverQuota { quota, retry_after });
                }
            };
            if number == own.number {
                caller_quota = Some(quota);
            }
            for (place, cursor) in places.into_iter().zip(read) {
                if let Some(state) = all.get_mut(place) {
                    *state = cursor;
                }
            }
        }
        let quota = caller_quota.ok_or_else(StoreError::missing_result)?;
        Ok(ReadOutcome::Served { read: all, quota })
    }

    async fn read_states_at(
        &self,
        partition: &PartitionStore,
        caller: UserId,
        call: StatesCall<'_>,
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        let reads = &self.reads;
        let fill = |cmd, placement: &Placement| {
            reads.fill_states(cmd, &partition.keys, placement, caller, call)
        };
        let parse = |_: &Placement, reply: Value| reads.parse_states(call.conversations, &reply);
        let weight = Weight::of_cursors(call.conversations.len());
        self.read(partition, (&reads.states, weight), fill, parse).await
    }

    fn cached_read_denial<T>(&self, caller: UserId) -> Option<ReadOutcome<T>> {
        let (quota, retry_after) = self.shared.read_denials.get(caller)?;
        Some(ReadOutcome::OverQuota { quota, retry_after })
    }

    fn ask_reads(&self) -> ReadCall {
        ReadCall { generation: self.shared.read_denials.generation(), at: Instant::now() }
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
            self.shared.read_denials.insert(caller, *quota, until, asked.generation);
        }
        outcome
    }
}

#[async_trait::async_trait]
impl ReadQuotas for RedisStore {
    async fn take_reads(&self, watcher: UserId, reads: u64) -> Result<ReadOutcome<()>, StoreError> {
        if let Some(denial) = self.cached_read_denial(watcher) {
            return Ok(denial);
        }
        let (scripts, partition) = (&self.reads, self.partition(watcher));
        let fill = |call, _: &Placement| scripts.fill_take(call, &partition.keys, watcher, reads);
        let parse = |_: &Placement, reply: Value| scripts.parse_states(&[], &reply);
        let asked = self.ask_reads();
        let taken = self.read(partition, (&scripts.take, Weight::ONE), fill, parse);
        let taken = self.spans.script("take_reads", 1).record(taken).await;
        self.remember_read_denial(watcher, asked, taken.map(ReadOutcome::without_result))
    }
}
