//! Processes of the relay that are alive.

use std::time::Duration;

use redis::cmd;
use serde::Deserialize;

use super::ms;
use crate::domain::WebhookName;
use crate::store::StoreError;
use crate::store::redis::keys::Keys;
use crate::store::redis::store::RedisStore;
use crate::store::relay::RelayProcess;

/// What is stored of a process, besides its ID.
#[derive(Deserialize)]
struct StoredProcess {
    webhooks: Vec<String>,
}

impl RedisStore {
    pub(super) async fn announce_process(
        &self,
        process: &RelayProcess,
        ttl: Duration,
    ) -> Result<Vec<RelayProcess>, StoreError> {
        let names: Vec<_> = process.webhooks.iter().map(WebhookName::as_str).collect();
        let names = serde_json::to_string(&names).map_err(StoreError::corrupt)?;
        let mut announce = self.relay.announce.by_source();
        announce.arg(1).arg(Keys::RELAY_PROCESSES).arg(&process.id).arg(names).arg(ms(ttl));
        let alive: Vec<Vec<u8>> =
            self.send_untagged("EVAL", Keys::RELAY_PROCESSES, announce).await?;
        let mut alive: Vec<_> = alive.chunks_exact(2).filter_map(parse).collect();
        alive.sort_unstable();
        Ok(alive)
    }

    pub(super) async fn withdraw_process(&self, process: &str) -> Result<(), StoreError> {
        let mut withdraw = cmd("HDEL");
        withdraw.arg(Keys::RELAY_PROCESSES).arg(process);
        self.send_untagged("HDEL", Keys::RELAY_PROCESSES, withdraw).await
    }
}

/// Parses a process. One that another program put there is left out, as are names that are not a webhook's.
pub(in crate::store::redis) fn parse(pair: &[Vec<u8>]) -> Option<RelayProcess> {
    let [id, stored] = pair else { return None };
    let id = String::from_utf8(id.clone()).ok()?;
    let StoredProcess { webhooks } = serde_json::from_slice(stored).ok()?;
    let webhooks = webhooks.iter().filter_map(|name| name.parse().ok()).collect();
    Some(RelayProcess { id, webhooks })
}
