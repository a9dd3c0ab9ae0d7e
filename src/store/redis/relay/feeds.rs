//! Feeds: what is read of a partition's stream, and what is acknowledged.

use redis::{Cmd, Value};

use super::entries::{ENTRY_MAX_BYTES, READ_MAX_BYTES, parse_entries, too_short};
use super::leases::{fill_lease_and_stream, parse_done};
use crate::domain::{EntryId, WebhookName};
use crate::store::StoreError;
use crate::store::redis::errors::unexpected;
use crate::store::redis::gate::Weight;
use crate::store::redis::keys::Keys;
use crate::store::redis::partitions::PartitionStore;
use crate::store::redis::placement::Placement;
use crate::store::redis::scripts::{Script, integer, text};
use crate::store::redis::store::RedisStore;
use crate::store::relay::{FeedEntry, FeedLag, Lease, Leased, NewEntries};

/// The scripts of feeds.
#[derive(Debug)]
pub(crate) struct FeedScripts {
    pub(super) acquire: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    new_entries: Script,
    pending: Script,
    acknowledge: Script,
    note_attempts: Script,
    lag: Script,
}

impl FeedScripts {
    pub(super) fn new() -> Self {
        Self {
            acquire: Script::relay_acquire(),
            renew: Script::relay_renew(),
            release: Script::relay_release(),
            new_entries: Script::relay_new_entries(),
            pending: Script::relay_pending(),
            acknowledge: Script::relay_acknowledge(),
            note_attempts: Script::relay_note_attempts(),
            lag: Script::relay_lag(),
        }
    }

    /// Returns all of them.
    pub(crate) fn all(&self) -> [&Script; 8] {
        [
            &self.acquire,
            &self.renew,
            &self.release,
            &self.new_entries,
            &self.pending,
            &self.acknowledge,
            &self.note_attempts,
            &self.lag,
        ]
    }
}

/// A call of a feed's script.
pub(super) struct FeedCall<'a> {
    /// Its name in spans.
    pub(super) name: &'static str,
    pub(super) script: &'a Script,
    /// For how many entries it is.
    pub(super) count: usize,
}

impl RedisStore {
    /// Sends it to the node that has the partition.
    pub(super) async fn call_feed<T>(
        &self,
        partition: usize,
        FeedCall { name, script, count }: FeedCall<'_>,
        fill: impl Fn(Cmd, &Keys) -> Cmd,
        parse: impl Fn(Value) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let partition = self.feed_partition(partition)?;
        let fill = |call, _: &Placement| fill(call, &partition.keys);
        let called = self.read(partition, (script, Weight::ONE), fill, |_, reply| parse(reply));
        self.spans.script(name, count).record(called).await
    }

    fn feed_partition(&self, number: usize) -> Result<&PartitionStore, StoreError> {
        let partition = self.shared.partitions.all().get(number);
        let partition = partition.map(AsRef::as_ref);
        partition.ok_or_else(|| StoreError::corrupt(format!("there is no partition {number}")))
    }

    pub(super) async fn read_new_entries(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<NewEntries>, StoreError> {
        let script = &self.relay.feeds.new_entries;
        let call = FeedCall { name: "relay_new_entries", script, count: 1 };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease_and_stream(call, keys, lease);
            call.arg(Keys::relay_group(&lease.feed.webhook)).arg(after.to_string()).arg(limit);
            call.arg(ENTRY_MAX_BYTES).arg(max_bytes.clamp(1, READ_MAX_BYTES));
            call
        };
        self.call_feed(lease.feed.partition, call, fill, |reply| {
            parse_leased(reply, |mut rest| {
                let missed = rest.next().ok_or_else(too_short)?;
                let pending = rest.next().ok_or_else(too_short)?;
                let (missed, pending) = (integer(&missed)?, integer(&pending)?);
                Ok(NewEntries { entries: parse_entries(rest)?, missed, pending })
            })
        })
        .await
    }

    pub(super) async fn pending_entries(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<Vec<FeedEntry>>, StoreError> {
        let script = &self.relay.feeds.pending;
        let call = FeedCall { name: "relay_pending", script, count: 1 };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease_and_stream(call, keys, lease);
            call.arg(Keys::relay_group(&lease.feed.webhook)).arg(after.after().to_string());
            call.arg(limit).arg(ENTRY_MAX_BYTES).arg(max_bytes.clamp(1, READ_MAX_BYTES));
            call
        };
        self.call_feed(lease.feed.partition, call, fill, |reply| parse_leased(reply, parse_entries))
            .await
    }

    pub(super) async fn acknowledge_entries(
        &self,
        lease: &Lease,
        entries: &[EntryId],
    ) -> Result<Leased<()>, StoreError> {
        let script = &self.relay.feeds.acknowledge;
        let call = FeedCall { name: "relay_acknowledge", script, count: entries.len() };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease_and_stream(call, keys, lease);
            call.arg(Keys::relay_group(&lease.feed.webhook));
            for entry in entries {
                call.arg(entry.to_string());
            }
            call
        };
        self.call_feed(lease.feed.partition, call, fill, parse_done).await
    }

    pub(super) async fn note_attempts_of(
        &self,
        lease: &Lease,
        attempts: &[(EntryId, u32)],
    ) -> Result<Leased<()>, StoreError> {
        let script = &self.relay.feeds.note_attempts;
        let call = FeedCall { name: "relay_note_attempts", script, count: attempts.len() };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease_and_stream(call, keys, lease);
            call.arg(Keys::relay_group(&lease.feed.webhook));
            for (entry, attempts) in attempts {
                // Redis has counted one when the entry was read.
                call.arg(entry.to_string()).arg(u64::from(*attempts) + 1);
            }
            call
        };
        self.call_feed(lease.feed.partition, call, fill, parse_done).await
    }

    pub(super) async fn feed_lags(
        &self,
        partition: usize,
        webhooks: &[WebhookName],
    ) -> Result<Vec<FeedLag>, StoreError> {
        let count = webhooks.len();
        let call = FeedCall { name: "relay_lag", script: &self.relay.feeds.lag, count };
        let fill = |mut call: Cmd, keys: &Keys| {
            call.arg(1).arg(keys.stream());
            for webhook in webhooks {
                call.arg(Keys::relay_group(webhook));
            }
            call
        };
        self.call_feed(partition, call, fill, |reply| match reply {
            Value::Array(fields) if fields.len() == 2 * count => {
                fields.chunks_exact(2).map(parse_lag).collect()
            }
            _ => Err(unexpected(&reply)),
        })
        .await
    }
}

fn parse_lag(fields: &[Value]) -> Result<FeedLag, StoreError> {
    let [entries, oldest] = fields else { return Err(too_short()) };
    let oldest = match text(oldest)? {
        "" => None,
        id => Some(id.parse().map_err(StoreError::corrupt)?),
    };
    Ok(FeedLag { entries: integer(entries)?, oldest })
}

/// Parses the reply of a script that compares the token.
pub(super) fn parse_leased<T>(
    reply: Value,
    parse: impl FnOnce(std::vec::IntoIter<Value>) -> Result<T, StoreError>,
) -> Result<Leased<T>, StoreError> {
    let Value::Array(fields) = reply else { return Err(unexpected(&reply)) };
    match &fields[..] {
        [Value::BulkString(word)] if word == b"lost" => Ok(Leased::Lost),
        [Value::BulkString(word), ..] if word == b"held" => {
            let mut rest = fields.into_iter();
            rest.next();
            parse(rest).map(Leased::Held)
        }
        _ => Err(unexpected(&Value::Array(fields))),
    }
}
