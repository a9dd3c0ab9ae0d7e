//! Stores of cursors, quotas and events: traits, split by their users, and two implementations.
//!
//! [`redis::RedisStore`] is the store of `markread serve`. [`memory::MemoryStore`] is the embedded store
//! of `serve --dev`, and the reference that the property test compares Redis with.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::domain::{
    Conversation, CursorPage, ListPosition, Mark, Nonce, Outcome, Position, Quota, ReadCursor,
    ReadOutcome, UserId,
};
use crate::telemetry::Traceparent;

pub mod memory;
pub mod redis;
pub mod relay;

mod entries;
mod error;

pub use self::entries::{Entries, LogBounds, Loss, Losses, ReadSize, Resumption};
pub use self::error::{StoreError, StoreErrorKind};

/// Marks, each in one atomic step: quota, comparison, cursor, event.
#[async_trait::async_trait]
pub trait Marks: Send + Sync {
    /// Marks a message as read. A mark that fails leaves nothing half done. `traceparent` is stored beside its event.
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult;

    /// Applies marks in order, all of one reader, and returns a result for each, as if each had come alone: one
    /// mark's failure does not affect the others.
    ///
    /// # Errors
    ///
    /// If the whole list failed: the store could not be reached, or its answer was lost.
    async fn mark_read_all(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError>;

    /// Returns whether the reader's quota is known to be used up: marks are denied from memory.
    fn denies_marks(&self, _reader: UserId) -> bool {
        false
    }
}

/// Reads of cursors. Each costs one of the caller's read quota.
#[async_trait::async_trait]
pub trait Cursors: Send + Sync {
    /// Reads the cursors of conversations, in order.
    ///
    /// # Errors
    ///
    /// If the store could not be reached, its answer was lost, or a cursor is corrupt.
    async fn read_states(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError>;

    /// Reads the caller's cursors after a position, or from the beginning. Their order is fixed: no
    /// write changes it.
    ///
    /// # Errors
    ///
    /// As [`Self::read_states`].
    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError>;

    /// Returns whether the caller's read quota is known to be used up: reads are denied from memory.
    fn denies_reads(&self, _caller: UserId) -> bool {
        false
    }
}

/// The logs of mark-read events.
pub trait EventLogs {
    /// Returns the log of each partition, in their order. One Redis has one partition.
    fn logs(self: Arc<Self>) -> Vec<Arc<dyn EventLog>>;
}

/// The log of a partition's mark-read events, as watchers read it.
#[async_trait::async_trait]
pub trait EventLog: Send + Sync {
    /// Waits until there are entries after a position and returns the first of them; none if the time runs
    /// out first. For one caller at a time.
    ///
    /// # Errors
    ///
    /// If the store could not be reached, or its answer was lost.
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError>;

    /// Reads entries after a position, the oldest first.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for_entries`].
    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError>;

    /// Reads the newest entries, the oldest of them first.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for_entries`].
    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError>;

    /// Returns the span of the log.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for_entries`].
    async fn bounds(&self) -> Result<LogBounds, StoreError>;
}

/// Read quotas, of which watchers pay for the entries that were read for them.
#[async_trait::async_trait]
pub trait ReadQuotas: Send + Sync {
    /// Takes reads from a watcher's read quota for the entries that were read for it. If fewer are left,
    /// takes those, and the quota is used up.
    ///
    /// # Errors
    ///
    /// If the store could not be reached, or its answer was lost.
    async fn take_reads(&self, watcher: UserId, reads: u64) -> Result<ReadOutcome<()>, StoreError>;
}

/// Nonces of signatures.
#[async_trait::async_trait]
pub trait Nonces: Send + Sync {
    /// Uses a nonce for a mark of this reader, and remembers it for longer than its signature is valid;
    /// not if the reader's quota is used up.
    ///
    /// # Errors
    ///
    /// If the store could not be reached, or its answer was lost.
    async fn use_nonce(&self, reader: UserId, nonce: Nonce) -> Result<NonceUse, StoreError>;

    /// Forgets a nonce, as if it was not used.
    ///
    /// # Errors
    ///
    /// As [`Self::use_nonce`].
    async fn forget_nonce(&self, reader: UserId, nonce: Nonce) -> Result<(), StoreError>;
}

/// A store for everything.
pub trait Store: Marks + Cursors + ReadQuotas + EventLogs + Nonces + 'static {}

impl<S: Marks + Cursors + ReadQuotas + EventLogs + Nonces + 'static> Store for S {}

/// Result of one mark of a list.
pub type MarkResult = Result<Outcome, StoreError>;

/// Result of using a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceUse {
    /// It was not used before.
    First,
    /// It was used before.
    Repeated,
    /// The reader's quota is used up, and the nonce is not used.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// Time until the window ends.
        retry_after: Duration,
    },
}

/// How long a used nonce is remembered, in milliseconds (`docs/contract.md`, "HTTP"). A signature is
/// valid from 5 minutes before its timestamp to 5 minutes after it.
const NONCE_KEPT_MS: u64 = 15 * 60 * 1000;

/// Health of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// It answers. The warnings are settings that may lose data.
    Ready {
        /// One sentence each, for people.
        warnings: Vec<Cow<'static, str>>,
    },
    /// It does not answer. The cause is for people.
    Away(String),
}

/// The health of a store, as it changes.
pub type HealthReceiver = watch::Receiver<StoreHealth>;

/// Returns the time of this machine, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
