//! What the relay keeps in Redis (`docs/contract.md`, "Redis").
//!
//! A call is sent again where it provably was not run, as all calls are; one whose answer was lost is an
//! error. The caller may repeat it: all are idempotent but two. After a lost answer of
//! [`RelayStore::new_entries`] its entries are pending, and [`RelayStore::pending`] reads them; a dead letter
//! may be there twice.

use std::time::Duration;

use redis::cmd;
use tokio::time::timeout;

use self::feeds::FeedScripts;
use super::scripts::Script;
use super::store::RedisStore;
use crate::domain::{EntryId, UserId, WebhookName};
use crate::store::StoreError;
use crate::store::relay::{
    DeadLetter, FeedEntry, FeedLag, Lease, Leased, NewEntries, RelayProcess, RelayStore,
    StoredLetter, WebhookAdmin, WebhookState,
};

pub(super) mod entries;
mod feeds;
pub(super) mod leases;
mod letters;
pub(super) mod processes;
mod redelivery;
pub(super) mod state;
mod subscriptions;
mod untagged;

pub(crate) use self::letters::{fill_letters, parse_letters};

/// Longest time of a call: a Redis that hangs is away.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Most entries of one call: each takes less than a millisecond of Redis's time.
const ACKNOWLEDGED_AT_ONCE: usize = 1000;
const NOTED_AT_ONCE: usize = 128;

/// The scripts.
#[derive(Debug)]
pub(crate) struct RelayScripts {
    pub(crate) feeds: FeedScripts,
    announce: Script,
    set_state: Script,
    dead_letters: Script,
}

impl RelayScripts {
    pub(crate) fn new() -> Self {
        Self {
            feeds: FeedScripts::new(),
            announce: Script::relay_announce(),
            set_state: Script::relay_set_state(),
            dead_letters: Script::dead_letters(),
        }
    }
}

/// Waits for a call until its time is up.
async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = timeout(CALL_TIMEOUT, call).await;
    done.unwrap_or_else(|_| Err(StoreError::unavailable("no answer within 2 s")))
}

#[async_trait::async_trait]
impl RelayStore for RedisStore {
    fn partitions(&self) -> usize {
        self.shared.partitions.all().len()
    }

    async fn announce(
        &self,
        process: &RelayProcess,
        ttl: Duration,
    ) -> Result<Vec<RelayProcess>, StoreError> {
        in_time(self.announce_process(process, ttl)).await
    }

    async fn withdraw(&self, process: &str) -> Result<(), StoreError> {
        in_time(self.withdraw_process(process)).await
    }

    async fn acquire(
        &self,
        lease: &Lease,
        ttl: Duration,
        begin: EntryId,
    ) -> Result<Leased<EntryId>, StoreError> {
        in_time(self.acquire_lease(lease, ttl, begin)).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Leased<()>, StoreError> {
        in_time(self.renew_lease(lease, ttl)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        in_time(self.release_lease(lease)).await
    }

    async fn pending(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<Vec<FeedEntry>>, StoreError> {
        in_time(self.pending_entries(lease, after, limit, max_bytes)).await
    }

    async fn new_entries(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<NewEntries>, StoreError> {
        in_time(self.read_new_entries(lease, after, limit, max_bytes)).await
    }

    async fn acknowledge(
        &self,
        lease: &Lease,
        entries: &[EntryId],
    ) -> Result<Leased<()>, StoreError> {
        for entries in entries.chunks(ACKNOWLEDGED_AT_ONCE) {
            match in_time(self.acknowledge_entries(lease, entries)).await? {
                Leased::Held(()) => {}
                Leased::Lost => return Ok(Leased::Lost),
            }
        }
        Ok(Leased::Held(()))
    }

    async fn note_attempts(
        &self,
        lease: &Lease,
        attempts: &[(EntryId, u32)],
    ) -> Result<Leased<()>, StoreError> {
        for attempts in attempts.chunks(NOTED_AT_ONCE) {
            match in_time(self.note_attempts_of(lease, attempts)).await? {
                Leased::Held(()) => {}
                Leased::Lost => return Ok(Leased::Lost),
            }
        }
        Ok(Leased::Held(()))
    }

    async fn lags(
        &self,
        partition: usize,
        webhooks: &[WebhookName],
    ) -> Result<Vec<FeedLag>, StoreError> {
        in_time(self.feed_lags(partition, webhooks)).await
    }

    async fn are_subscribed(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<Vec<bool>, StoreError> {
        in_time(self.look_up_subscribers(webhook, users)).await
    }

    async fn add_dead_letter(
        &self,
        webhook: &WebhookName,
        letter: &DeadLetter,
        maxlen: u64,
    ) -> Result<(), StoreError> {
        in_time(self.add_letter(webhook, letter, maxlen)).await
    }

    async fn count_dead_letters(&self, webhook: &WebhookName) -> Result<u64, StoreError> {
        in_time(self.count_letters(webhook)).await
    }

    async fn state(&self, webhook: &WebhookName) -> Result<WebhookState, StoreError> {
        in_time(self.read_state(webhook)).await
    }

    async fn set_state(
        &self,
        webhook: &WebhookName,
        state: &WebhookState,
    ) -> Result<(), StoreError> {
        in_time(self.write_state(webhook, state)).await
    }

    async fn begin_check(&self, webhook: &WebhookName, ttl: Duration) -> Result<bool, StoreError> {
        in_time(self.take_check(webhook, ttl)).await
    }

    async fn end_check(&self, webhook: &WebhookName, pause: Duration) -> Result<(), StoreError> {
        in_time(self.give_check_back(webhook, pause)).await
    }
}

#[async_trait::async_trait]
impl WebhookAdmin for RedisStore {
    async fn subscribe(&self, webhook: &WebhookName, users: &[UserId]) -> Result<u64, StoreError> {
        in_time(self.change_subscribers(("SADD", cmd("SADD")), webhook, users)).await
    }

    async fn unsubscribe(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<u64, StoreError> {
        in_time(self.change_subscribers(("SREM", cmd("SREM")), webhook, users)).await
    }

    async fn subscribers(
        &self,
        webhook: &WebhookName,
        from: u64,
    ) -> Result<(Vec<UserId>, u64), StoreError> {
        in_time(self.scan_subscribers(webhook, from)).await
    }

    async fn dead_letters(
        &self,
        webhook: &WebhookName,
        after: EntryId,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        in_time(self.read_letters(webhook, after, limit)).await
    }

    async fn begin_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        in_time(self.take_redelivery(webhook, token, ttl)).await
    }

    async fn renew_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        in_time(self.keep_redelivery(webhook, token, ttl)).await
    }

    async fn end_redelivery(&self, webhook: &WebhookName, token: &str) -> Result<(), StoreError> {
        in_time(self.give_redelivery_back(webhook, token)).await
    }

    async fn remove_dead_letters(
        &self,
        webhook: &WebhookName,
        letters: &[EntryId],
    ) -> Result<(), StoreError> {
        in_time(self.remove_letters(webhook, letters)).await
    }
}

/// Returns a time in whole milliseconds, at least one: Redis refuses an expiry of 0.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.cast_unsigned() / 4)
}
