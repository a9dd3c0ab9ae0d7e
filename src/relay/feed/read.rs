//! Reads the entries of a feed: first those that an earlier owner read, then new ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{CALL_TIMEOUT, within};
use crate::domain::EntryId;
use crate::relay::Context;
use crate::relay::doorbell::Doorbell;
use crate::relay::endpoint::Endpoint;
use crate::relay::retry::StorePauses;
use crate::relay::routing::{RoutedEntry, keep_subscribed, parse_all};
use crate::store::StoreError;
use crate::store::relay::{EntryContent, FeedEntry, Lease, Leased, NewEntries};

/// An idle feed reads without being woken after this time: after a failover the log may have gone back
/// behind what the doorbell knows.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFrom {
    /// Pending ones after an ID.
    Pending(EntryId),
    /// New ones.
    New,
    /// New ones, when there are some after this ID.
    NewAfter(EntryId),
}

/// Entries that were read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) entries: Vec<RoutedEntry>,
    pub(super) count: usize,
    /// Whether it ended at a bound, so that there may be more.
    pub(super) is_full: bool,
    /// Pending entries of the store that the feed did not have, nor has by this read.
    pub(super) unknown: u64,
    /// The last entry that was read.
    pub(super) last: Option<EntryId>,
    /// How many entries were trimmed before.
    pub(super) missed: u64,
    /// Up to where the log is read if there are no entries.
    pub(super) read_to: Option<EntryId>,
}

/// A read of a feed.
pub(super) struct Read {
    pub(super) context: Arc<Context>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) lease: Lease,
    pub(super) from: ReadFrom,
    /// The last entry that the feed has read.
    pub(super) position: EntryId,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
    /// Entries that the feed has, as far as they are pending.
    pub(super) known: usize,
}

impl Read {
    pub(super) async fn run(self) -> Result<Leased<Batch>, StoreError> {
        let store = self.context.store.as_ref();
        let (lease, limit, max_bytes) = (&self.lease, self.limit, self.max_bytes);
        let mut read_to = None;
        let read = match self.from {
            ReadFrom::Pending(after) => {
                let pending = store.pending(lease, after, limit, max_bytes);
                let pending = within(CALL_TIMEOUT, pending).await?;
                pending.map(|entries| NewEntries { entries, ..NewEntries::default() })
            }
            ReadFrom::New => {
                let read = store.new_entries(lease, self.position, limit, max_bytes);
                within(CALL_TIMEOUT, read).await?
            }
            ReadFrom::NewAfter(after) => {
                read_to = timeout(IDLE_MAX, self.doorbell.wait(after)).await.ok();
                let read = store.new_entries(lease, self.position, limit, max_bytes);
                within(CALL_TIMEOUT, read).await?
            }
        };
        let NewEntries { entries, missed, pending } = match read {
            Leased::Held(read) => read,
            Leased::Lost => return Ok(Leased::Lost),
        };
        let count = entries.len();
        let bytes: usize = entries.iter().map(bytes_of).sum();
        let is_full = count >= limit || bytes >= max_bytes;
        let known = u64::try_from(self.known + count).unwrap_or(u64::MAX);
        let unknown = pending.saturating_sub(known);
        let last = entries.last().map(|entry| entry.id);
        let entries = self.route(entries).await;
        Ok(Leased::Held(Batch { entries, count, is_full, unknown, last, missed, read_to }))
    }

    /// Finds out for whom the entries are. It does not fail: they were read, and are not read again.
    async fn route(&self, entries: Vec<FeedEntry>) -> Vec<RoutedEntry> {
        let webhook = self.endpoint.webhook();
        let mut entries = parse_all(entries, &webhook);
        let mut pauses = StorePauses::default();
        loop {
            let kept = keep_subscribed(self.context.store.as_ref(), &webhook, &mut entries);
            match within(CALL_TIMEOUT, kept).await {
                Ok(()) => return entries,
                Err(error) => {
                    self.endpoint.log_store_failure("cannot look up subscriptions", &error);
                    sleep(pauses.fail()).await;
                }
            }
        }
    }
}

fn bytes_of(entry: &FeedEntry) -> usize {
    match &entry.content {
        EntryContent::Stored { payload: Some(payload), .. } => payload.len(),
        _ => 0,
    }
}
