//! Leases of feeds: who may deliver them.

use std::time::Duration;

use redis::{Cmd, Value};

use super::entries::too_short;
use super::feeds::{FeedCall, parse_leased};
use super::ms;
use crate::domain::EntryId;
use crate::store::StoreError;
use crate::store::redis::errors::unexpected;
use crate::store::redis::keys::Keys;
use crate::store::redis::scripts::text;
use crate::store::redis::store::RedisStore;
use crate::store::relay::{Lease, Leased};

impl RedisStore {
    pub(super) async fn acquire_lease(
        &self,
        lease: &Lease,
        ttl: Duration,
        begin: EntryId,
    ) -> Result<Leased<EntryId>, StoreError> {
        let call = FeedCall { name: "relay_acquire", script: &self.relay.feeds.acquire, count: 1 };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease_and_stream(call, keys, lease);
            call.arg(ms(ttl)).arg(Keys::relay_group(&lease.feed.webhook)).arg(begin.to_string());
            call
        };
        self.call_feed(lease.feed.partition, call, fill, |reply| {
            parse_leased(reply, |mut rest| match (rest.next(), rest.next()) {
                (Some(last), None) => text(&last)?.parse().map_err(StoreError::corrupt),
                _ => Err(too_short()),
            })
        })
        .await
    }

    pub(super) async fn renew_lease(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Leased<()>, StoreError> {
        let call = FeedCall { name: "relay_renew", script: &self.relay.feeds.renew, count: 1 };
        let fill = |call: Cmd, keys: &Keys| {
            let mut call = fill_lease(call, keys, lease);
            call.arg(ms(ttl));
            call
        };
        self.call_feed(lease.feed.partition, call, fill, parse_done).await
    }

    pub(super) async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let call = FeedCall { name: "relay_release", script: &self.relay.feeds.release, count: 1 };
        let fill = |call: Cmd, keys: &Keys| fill_lease(call, keys, lease);
        match self.call_feed(lease.feed.partition, call, fill, parse_done).await? {
            Leased::Held(()) | Leased::Lost => Ok(()),
        }
    }
}

fn fill_lease(mut call: Cmd, keys: &Keys, lease: &Lease) -> Cmd {
    call.arg(1).arg(keys.relay_lease(&lease.feed)).arg(&*lease.token);
    call
}

/// Adds the keys of a feed, and the token.
pub(super) fn fill_lease_and_stream(mut call: Cmd, keys: &Keys, lease: &Lease) -> Cmd {
    call.arg(2).arg(keys.relay_lease(&lease.feed)).arg(keys.stream()).arg(&*lease.token);
    call
}

/// Parses the reply of a script that says only whether the lease is held.
pub(in crate::store::redis) fn parse_done(reply: Value) -> Result<Leased<()>, StoreError> {
    parse_leased(reply, |mut rest| rest.next().map_or(Ok(()), |more| Err(unexpected(&more))))
}
