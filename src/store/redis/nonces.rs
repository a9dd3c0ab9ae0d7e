//! Nonces of signatures: calls of `use_nonce.lua`, and their replies.

use std::time::Duration;

use redis::{Cmd, Value, cmd};
use tokio::time::Instant;

use super::errors::{classify, unexpected};
use super::gate::Weight;
use super::keys::Keys;
use super::placement::Placement;
use super::retry::Route;
use super::scripts::{Script, integer};
use super::store::{RedisStore, send};
use crate::domain::{Nonce, RateLimit, UserId};
use crate::store::{NONCE_KEPT_MS, NonceUse, Nonces, StoreError};

/// The script, and the quota that every call of it has.
#[derive(Debug)]
pub(crate) struct NonceScript {
    pub(crate) script: Script,
    rate_limit: RateLimit,
}

impl NonceScript {
    pub(crate) fn new(rate_limit: RateLimit) -> Self {
        Self { script: Script::use_nonce(), rate_limit }
    }

    fn fill(&self, mut call: Cmd, keys: &Keys, reader: UserId, nonce: &Nonce) -> Cmd {
        call.arg(2).arg(keys.quota(reader)).arg(keys.nonce(nonce));
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms).arg(NONCE_KEPT_MS);
        call
    }

    pub(super) fn parse(&self, reply: &Value) -> Result<NonceUse, StoreError> {
        let Value::Array(fields) = reply else { return Err(unexpected(reply)) };
        match &fields[..] {
            [Value::BulkString(outcome)] if outcome == b"first" => Ok(NonceUse::First),
            [Value::BulkString(outcome)] if outcome == b"repeated" => Ok(NonceUse::Repeated),
            [Value::BulkString(outcome), reset_at_ms, ttl_ms] if outcome == b"over_quota" => {
                Ok(NonceUse::OverQuota {
                    quota: self.rate_limit.quota(self.rate_limit.calls, integer(reset_at_ms)?),
                    retry_after: Duration::from_millis(integer(ttl_ms)?),
                })
            }
            _ => Err(unexpected(reply)),
        }
    }
}

#[async_trait::async_trait]
impl Nonces for RedisStore {
    async fn use_nonce(&self, reader: UserId, nonce: Nonce) -> Result<NonceUse, StoreError> {
        if let Some((quota, retry_after)) = self.shared.denials.get(reader) {
            return Ok(NonceUse::OverQuota { quota, retry_after });
        }
        let _timing = self.timers.use_nonce.start();
        let generation = self.shared.denials.generation();
        let sent_at = Instant::now();
        let partition = self.partition(reader);
        let fill = |call, _: &Placement| self.nonces.fill(call, &partition.keys, reader, &nonce);
        let parse = |_: &Placement, reply: Value| self.nonces.parse(&reply);
        let used = self.read(partition, (&self.nonces.script, Weight::ONE), fill, parse);
        let used = self.spans.script("use_nonce", 1).record(used).await?;
        if let NonceUse::OverQuota { quota, retry_after } = used {
            let until = sent_at.checked_add(retry_after);
            self.shared.denials.insert(reader, quota, until, generation);
        }
        Ok(used)
    }

    async fn forget_nonce(&self, reader: UserId, nonce: Nonce) -> Result<(), StoreError> {
        let partition = self.partition(reader);
        let delete = async {
            let mut route = self.route(partition).await?;
            loop {
                let deleted = delete_nonce(&route, partition.keys.nonce(&nonce)).await;
                if !route.is_to_be_sent_again(&deleted).await {
                    return deleted;
                }
            }
        };
        self.spans.command("DEL", 1).record(delete).await
    }
}

async fn delete_nonce(route: &Route<'_>, key: String) -> Result<(), StoreError> {
    let _permit = route.node.permit()?;
    let mut delete = cmd("DEL");
    delete.arg(key);
    let sent = send(route.way, delete, &mut route.node.connections().calls()?).await;
    sent.map(|_| ()).map_err(classify)
}
