//! Where cursors, quotas and events are kept: one small trait, two implementations.
//!
//! [`redis::RedisStore`] is what `markread serve` runs on. [`memory::MemoryStore`] is the embedded
//! store behind `serve --dev`, and the reference that the property test holds Redis against.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::{
    Conversation, CursorPage, EntryId, Event, Mark, Nonce, Outcome, ReadCursor, ReadOutcome, UserId,
};
use crate::telemetry::Traceparent;

pub mod memory;
pub mod redis;

/// A store does each mark in one atomic step: quota, comparison, cursor, event.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Does a mark. One that fails leaves nothing half done. What is given of the call's trace stands
    /// beside its event.
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult;

    /// Does marks in order and answers each in its place, as if each had come alone: its neighbours
    /// succeed or fail on their own.
    ///
    /// # Errors
    ///
    /// When the whole list failed: the store could not be asked, or its answer never came.
    async fn mark_read_all(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError>;

    /// Reads cursors, each in its place, for one of the caller's quota of reads.
    ///
    /// # Errors
    ///
    /// When the store could not be asked, its answer never came, or one of them is corrupt.
    async fn read_states(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError>;

    /// Reads the caller's cursors that stand behind that of this recipient, in an order that no
    /// write changes: from the beginning where none is named. Takes one of the quota of reads.
    ///
    /// # Errors
    ///
    /// As of [`Self::read_states`].
    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError>;

    /// Waits for entries of the stream behind this one, and gives those that are there when any is:
    /// none after this time. One caller at a time.
    ///
    /// # Errors
    ///
    /// When the store could not be asked, or its answer never came.
    async fn next_entries(&self, after: EntryId, wait: Duration) -> Result<Entries, StoreError>;

    /// Reads entries of the stream behind this one, the oldest first.
    ///
    /// # Errors
    ///
    /// As of [`Self::next_entries`].
    async fn entries(&self, after: EntryId, limit: usize) -> Result<Entries, StoreError>;

    /// Reads the newest entries of the stream, the oldest of them first.
    ///
    /// # Errors
    ///
    /// As of [`Self::next_entries`].
    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError>;

    /// Tells what the stream spans.
    ///
    /// # Errors
    ///
    /// As of [`Self::next_entries`].
    async fn stream_span(&self) -> Result<StreamSpan, StoreError>;

    /// Uses up a nonce for as long as the time of its signature may be taken, and longer.
    ///
    /// # Errors
    ///
    /// When the store could not be asked, or its answer never came.
    async fn use_nonce(&self, nonce: Nonce) -> Result<NonceUse, StoreError>;

    /// Whether the store can be asked, as it changes.
    fn health(&self) -> watch::Receiver<StoreHealth>;
}

/// Some entries of the stream, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Their events. An entry of somebody else's has none.
    pub events: Vec<Event>,
    /// The first and the last of the entries, where there is any.
    pub span: Option<(EntryId, EntryId)>,
}

impl Entries {
    /// The entries with these payloads.
    pub fn of<'a>(entries: impl IntoIterator<Item = (EntryId, &'a str)>) -> Self {
        let mut all = Self::default();
        for (id, payload) in entries {
            all.events.extend(Event::parse(id, payload));
            all.span = Some((all.span.map_or(id, |(first, _)| first), id));
        }
        all
    }

    /// These, and those right behind them.
    #[must_use]
    pub fn followed_by(mut self, mut others: Self) -> Self {
        self.events.append(&mut others.events);
        self.span = match (self.span, others.span) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (one, other) => one.or(other),
        };
        self
    }
}

/// What the stream spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSpan {
    /// Its oldest entry, where there is any.
    pub first: Option<EntryId>,
    /// The greatest ID that was ever given.
    pub last_given: EntryId,
    /// Whether entries were ever removed.
    pub removed: bool,
    /// How many entries there are.
    pub length: u64,
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

impl StreamSpan {
    /// The place that all entries there are stand behind.
    pub fn before_oldest(&self) -> EntryId {
        self.first.map_or(self.last_given, EntryId::before)
    }
}

/// Whether a nonce was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceUse {
    /// It was not.
    First,
    /// It was.
    Repeated,
}

/// How long a used nonce is kept, in milliseconds: CONTRACT section 8. A signature's time is taken
/// for 10 min at most, counting from 5 min before it.
const NONCE_KEPT_MS: u64 = 15 * 60 * 1000;

/// What became of one mark of a list.
pub type MarkResult = Result<Outcome, StoreError>;

/// Whether a store can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// It answers. The warnings, for people, say what may lose data nevertheless.
    Ready {
        /// One sentence each.
        warnings: Vec<&'static str>,
    },
    /// It does not, with the cause, for people.
    Away(String),
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug)]
pub struct StoreError {
    /// What a caller can make of it.
    pub kind: StoreErrorKind,
    source: Arc<dyn Error + Send + Sync>,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Away, slow, loading, failing over, full, too few replicas. A retry is safe.
    Unavailable,
    /// Something that must not be there: a key of a wrong type, a reply that makes no sense.
    Corrupt,
}

impl StoreError {
    /// An error after which a retry is safe.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Unavailable, source: source.into().into() }
    }

    /// An error that a retry does not mend.
    pub fn corrupt(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Corrupt, source: source.into().into() }
    }

    /// An answer to a list of marks that leaves one out.
    fn unanswered_mark() -> Self {
        Self::corrupt("a mark without an answer")
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreErrorKind::Unavailable => write!(f, "the store is unavailable: {}", self.source),
            StoreErrorKind::Corrupt => write!(f, "the store holds a wrong value: {}", self.source),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
