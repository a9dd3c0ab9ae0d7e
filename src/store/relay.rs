//! What the relay keeps in the store: which process delivers which feed, how far, to whom, and what could
//! not be delivered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::StoreError;
use crate::domain::{DeliveryId, EntryId, UserId, WebhookName};

/// One partition's events for one webhook. One process at a time delivers them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedId {
    /// The webhook.
    pub webhook: WebhookName,
    /// Number of the partition.
    pub partition: usize,
}

/// The right to deliver a feed, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The feed.
    pub feed: FeedId,
    /// Who has it: other at each acquisition.
    pub token: Arc<str>,
}

/// Result of an operation that only the holder of a lease may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Leased<T> {
    /// It was done.
    Held(T),
    /// It was not done: the lease expired, or is another's.
    Lost,
}

impl<T> Leased<T> {
    /// Converts what was done.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Leased<U> {
        match self {
            Self::Held(value) => Leased::Held(convert(value)),
            Self::Lost => Leased::Lost,
        }
    }
}

/// A relay process that is alive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayProcess {
    /// Its ID.
    pub id: String,
    /// The webhooks that it knows.
    pub webhooks: Vec<WebhookName>,
}

/// An entry that a feed has to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its ID.
    pub id: EntryId,
    /// Attempts that were noted by [`RelayStore::note_attempts`].
    pub attempts: u32,
    /// What it contains.
    pub content: EntryContent,
}

/// Content of an entry. Other programs may add any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryContent {
    /// Its fields, as they are stored.
    Stored {
        /// The event.
        payload: Option<Bytes>,
        /// The trace that it belongs to.
        traceparent: Option<Bytes>,
    },
    /// It is larger than any event, and was not read: its size in bytes.
    TooLarge(u64),
    /// It was removed from the stream before it was delivered: trimmed, as far as the store knows.
    Removed,
    /// It was deleted from the stream, as `markread admin erase --events` does: it is not to be delivered.
    Deleted,
}

/// New entries of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEntries {
    /// The entries, in order.
    pub entries: Vec<FeedEntry>,
    /// How many entries were trimmed before the feed read them, as far as Redis can tell.
    pub missed: u64,
    /// How many entries are pending now, those of this read included.
    pub pending: u64,
}

/// How far a feed is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedLag {
    /// Entries that are not acknowledged: unread ones, and those that are being delivered.
    pub entries: u64,
    /// The oldest of them.
    pub oldest: Option<EntryId>,
}

/// Result of the checks of a webhook, and whether it is paused. All processes share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookState {
    /// The last check that passed.
    pub verified: Option<Verification>,
    /// The checks that fail, if the last one did.
    pub failing: Option<Failing>,
    /// Whether it is paused.
    pub paused: Option<Pause>,
}

/// Checks that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Of which settings, as of [`Verification::settings`].
    pub settings: String,
    /// What the last one failed with, for people.
    pub cause: String,
}

/// A check that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Of which settings: the relay's digest of the URL and what else a check depends on.
    pub settings: String,
}

/// Why nothing is delivered to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why, for people.
    pub reason: String,
    /// Whether a check that passes later ends it by itself. Otherwise `markread webhook check` does, or other
    /// settings of the webhook.
    pub is_passing: bool,
    /// The settings that it concerns.
    pub settings: String,
}

/// What could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The entry, and the user it was for; `None` if no event could be read from it.
    pub id: LetterId,
    /// The payload as it was stored, if it was.
    pub payload: Option<Bytes>,
    /// Why: one of the words of `docs/contract.md`.
    pub reason: String,
    /// How often it was attempted.
    pub attempts: u32,
    /// Status of the last response, if there was one.
    pub last_status: Option<u16>,
    /// What the last attempt failed with, for people.
    pub last_error: Option<String>,
}

/// Whose dead letter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterId {
    /// A delivery.
    Delivery(DeliveryId),
    /// An entry that has no event: its partition and ID.
    Entry(usize, EntryId),
}

/// A dead letter in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// ID of the dead-letter stream's entry.
    pub at: EntryId,
    /// The letter; `None` if another program put something else there.
    pub letter: Option<DeadLetter>,
}

/// Operations of the relay. All errors are [`StoreError`]: the store is away, or its answer was lost.
#[allow(missing_docs, clippy::missing_errors_doc, reason = "see above")]
#[async_trait::async_trait]
pub trait RelayStore: Send + Sync {
    /// Returns the number of partitions.
    fn partitions(&self) -> usize;

    /// Announces a process for so long, and returns all that are alive, itself included.
    async fn announce(
        &self,
        process: &RelayProcess,
        ttl: Duration,
    ) -> Result<Vec<RelayProcess>, StoreError>;

    /// Forgets a process.
    async fn withdraw(&self, process: &str) -> Result<(), StoreError>;

    /// Acquires a lease that nobody has, and creates the consumer group if it is absent: its first entry is
    /// the one after `begin`. Returns the last entry that the group has read.
    async fn acquire(
        &self,
        lease: &Lease,
        ttl: Duration,
        begin: EntryId,
    ) -> Result<Leased<EntryId>, StoreError>;

    /// Extends a lease.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Leased<()>, StoreError>;

    /// Gives a lease back, if it is still held.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Reads entries that were read before and not acknowledged, after an ID. It stops at the entry that
    /// reaches `max_bytes`, of which the store has a bound of its own: fewer than `limit` may be returned
    /// though there are more; none if there are no more.
    async fn pending(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<Vec<FeedEntry>>, StoreError>;

    /// Reads new entries, which are pending from then on: also if this fails since the answer was lost, or
    /// is dropped. [`Self::pending`] has them then. `after` is the last entry that the feed has read, or an
    /// earlier one: while the stream has an entry up to it, nothing was missed. The store reads it again,
    /// so it costs as much as its bytes.
    ///
    /// It stops soon after `max_bytes`, of which the store has a bound of its own: fewer than `limit` may be
    /// returned though there are more, and at least one if there is one.
    async fn new_entries(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<NewEntries>, StoreError>;

    /// Acknowledges entries.
    async fn acknowledge(
        &self,
        lease: &Lease,
        entries: &[EntryId],
    ) -> Result<Leased<()>, StoreError>;

    /// Notes how often entries were attempted, for the next holder of the lease.
    async fn note_attempts(
        &self,
        lease: &Lease,
        attempts: &[(EntryId, u32)],
    ) -> Result<Leased<()>, StoreError>;

    /// Returns how far the feeds of webhooks are behind, of one partition. Ask for all at once: the store
    /// looks at each of the partition's feeds for any of them.
    async fn lags(
        &self,
        partition: usize,
        webhooks: &[WebhookName],
    ) -> Result<Vec<FeedLag>, StoreError>;

    /// Returns whether each of some users is subscribed.
    async fn are_subscribed(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<Vec<bool>, StoreError>;

    /// Adds a dead letter, and trims their stream to about so many; 0 never trims.
    async fn add_dead_letter(
        &self,
        webhook: &WebhookName,
        letter: &DeadLetter,
        maxlen: u64,
    ) -> Result<(), StoreError>;

    /// Returns how many dead letters there are.
    async fn count_dead_letters(&self, webhook: &WebhookName) -> Result<u64, StoreError>;

    /// Reads the state of a webhook.
    async fn state(&self, webhook: &WebhookName) -> Result<WebhookState, StoreError>;

    /// Writes the state of a webhook.
    async fn set_state(
        &self,
        webhook: &WebhookName,
        state: &WebhookState,
    ) -> Result<(), StoreError>;

    /// Takes the right to check a webhook for so long. Returns false if another process has it.
    async fn begin_check(&self, webhook: &WebhookName, ttl: Duration) -> Result<bool, StoreError>;

    /// Ends a check: nobody has the right to another one for so long.
    async fn end_check(&self, webhook: &WebhookName, pause: Duration) -> Result<(), StoreError>;
}

/// Operations of `markread webhook`. Errors as of [`RelayStore`].
#[allow(missing_docs, clippy::missing_errors_doc, reason = "see above")]
#[async_trait::async_trait]
pub trait WebhookAdmin: RelayStore {
    /// Subscribes users, and returns how many were not subscribed before.
    async fn subscribe(&self, webhook: &WebhookName, users: &[UserId]) -> Result<u64, StoreError>;

    /// Unsubscribes users, and returns how many were subscribed.
    async fn unsubscribe(&self, webhook: &WebhookName, users: &[UserId])
    -> Result<u64, StoreError>;

    /// Reads some of the subscribed users, by the steps of SSCAN: a user may be returned twice. Returns where
    /// the next step begins; 0 if this was the last one.
    async fn subscribers(
        &self,
        webhook: &WebhookName,
        from: u64,
    ) -> Result<(Vec<UserId>, u64), StoreError>;

    /// Reads dead letters after an ID of their stream. Fewer than `limit` may be returned though there are
    /// more, since their bytes are bounded too; none if there are no more.
    async fn dead_letters(
        &self,
        webhook: &WebhookName,
        after: EntryId,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, StoreError>;

    /// Takes the right to send a webhook's dead letters again, for so long. Returns false if another command
    /// has it.
    async fn begin_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// Renews this right. Returns false if it was lost.
    async fn renew_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// Gives this right back, if it is still held.
    async fn end_redelivery(&self, webhook: &WebhookName, token: &str) -> Result<(), StoreError>;

    /// Removes dead letters.
    async fn remove_dead_letters(
        &self,
        webhook: &WebhookName,
        letters: &[EntryId],
    ) -> Result<(), StoreError>;
}
