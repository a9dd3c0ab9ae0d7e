//! The right to send a webhook's dead letters again: one command at a time has it.

use std::time::Duration;

use redis::{Value, cmd};

use super::leases::parse_done;
use super::ms;
use crate::domain::WebhookName;
use crate::store::StoreError;
use crate::store::redis::keys::Keys;
use crate::store::redis::store::RedisStore;
use crate::store::relay::Leased;

impl RedisStore {
    pub(super) async fn take_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let key = Keys::relay_redelivery(webhook);
        let mut take = cmd("SET");
        take.arg(&key).arg(token).arg("NX").arg("PX").arg(ms(ttl));
        // Absent if somebody has it.
        let reply: Option<String> = self.send_untagged("SET", &key, take).await?;
        Ok(reply.is_some())
    }

    pub(super) async fn keep_redelivery(
        &self,
        webhook: &WebhookName,
        token: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let key = Keys::relay_redelivery(webhook);
        let mut renew = self.relay.feeds.renew.by_source();
        renew.arg(1).arg(&key).arg(token).arg(ms(ttl));
        let reply: Value = self.send_untagged("EVAL", &key, renew).await?;
        Ok(parse_done(reply)? == Leased::Held(()))
    }

    pub(super) async fn give_redelivery_back(
        &self,
        webhook: &WebhookName,
        token: &str,
    ) -> Result<(), StoreError> {
        let key = Keys::relay_redelivery(webhook);
        let mut release = self.relay.feeds.release.by_source();
        release.arg(1).arg(&key).arg(token);
        let reply: Value = self.send_untagged("EVAL", &key, release).await?;
        match parse_done(reply)? {
            Leased::Held(()) | Leased::Lost => Ok(()),
        }
    }
}
