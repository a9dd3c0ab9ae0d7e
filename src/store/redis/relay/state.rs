//! State of webhooks: whether they are verified and paused.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use redis::cmd;

use super::ms;
use crate::domain::WebhookName;
use crate::store::StoreError;
use crate::store::redis::keys::Keys;
use crate::store::redis::store::RedisStore;
use crate::store::relay::{Failing, Pause, Verification, WebhookState};

const VERIFIED_AT: &str = "verified_at_ms";
const VERIFIED_SETTINGS: &str = "verified_settings";
const FAILING_SINCE: &str = "failing_since_ms";
const FAILING_SETTINGS: &str = "failing_settings";
const FAILURE: &str = "failure";
const PAUSED_AT: &str = "paused_at_ms";
const PAUSE_REASON: &str = "pause_reason";
const PAUSE_IS_PASSING: &str = "pause_is_passing";
const PAUSE_SETTINGS: &str = "pause_settings";

/// The fields of a state, as they are stored.
pub(in crate::store::redis) type Fields = HashMap<String, Vec<u8>>;

impl RedisStore {
    pub(super) async fn read_state(
        &self,
        webhook: &WebhookName,
    ) -> Result<WebhookState, StoreError> {
        let key = Keys::relay_state(webhook);
        let mut read = cmd("HGETALL");
        read.arg(&key);
        let fields: Fields = self.send_untagged("HGETALL", &key, read).await?;
        parse(&fields).map_err(|field| StoreError::corrupt(format!("{key} has an invalid {field}")))
    }

    pub(super) async fn write_state(
        &self,
        webhook: &WebhookName,
        state: &WebhookState,
    ) -> Result<(), StoreError> {
        let key = Keys::relay_state(webhook);
        let mut write = self.relay.set_state.by_source();
        write.arg(1).arg(&key);
        for (field, value) in fields(state) {
            write.arg(field).arg(value);
        }
        self.send_untagged("EVAL", &key, write).await
    }

    pub(super) async fn take_check(
        &self,
        webhook: &WebhookName,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let key = Keys::relay_check(webhook);
        let mut take = cmd("SET");
        take.arg(&key).arg(1).arg("NX").arg("PX").arg(ms(ttl));
        // Absent if somebody has it.
        let taken: Option<String> = self.send_untagged("SET", &key, take).await?;
        Ok(taken.is_some())
    }

    pub(super) async fn give_check_back(
        &self,
        webhook: &WebhookName,
        pause: Duration,
    ) -> Result<(), StoreError> {
        let key = Keys::relay_check(webhook);
        let mut expire = cmd("PEXPIRE");
        expire.arg(&key).arg(ms(pause));
        // Where the right has expired, there is nothing to give back.
        let _is_there: bool = self.send_untagged("PEXPIRE", &key, expire).await?;
        Ok(())
    }
}

pub(in crate::store::redis) fn fields(state: &WebhookState) -> Vec<(&'static str, String)> {
    let WebhookState { verified, failing, paused } = state;
    let mut fields = Vec::new();
    if let Some(Verification { at_ms, settings }) = verified {
        fields.extend([(VERIFIED_AT, at_ms.to_string()), (VERIFIED_SETTINGS, settings.clone())]);
    }
    if let Some(Failing { since_ms, settings, cause }) = failing {
        fields.extend([
            (FAILING_SINCE, since_ms.to_string()),
            (FAILING_SETTINGS, settings.clone()),
            (FAILURE, cause.clone()),
        ]);
    }
    if let Some(Pause { at_ms, reason, is_passing, settings }) = paused {
        fields.extend([
            (PAUSED_AT, at_ms.to_string()),
            (PAUSE_REASON, reason.clone()),
            (PAUSE_IS_PASSING, u8::from(*is_passing).to_string()),
            (PAUSE_SETTINGS, settings.clone()),
        ]);
    }
    fields
}

/// Parses a state. The error is the name of a field that another program has put there.
pub(in crate::store::redis) fn parse(fields: &Fields) -> Result<WebhookState, &'static str> {
    let text = |name| get::<String>(fields, name);
    let number = |name| get::<u64>(fields, name);
    let verified = match number(VERIFIED_AT)? {
        Some(at_ms) => {
            Some(Verification { at_ms, settings: text(VERIFIED_SETTINGS)?.unwrap_or_default() })
        }
        None => None,
    };
    let paused = match number(PAUSED_AT)? {
        Some(at_ms) => Some(Pause {
            at_ms,
            reason: text(PAUSE_REASON)?.unwrap_or_default(),
            is_passing: number(PAUSE_IS_PASSING)? == Some(1),
            settings: text(PAUSE_SETTINGS)?.unwrap_or_default(),
        }),
        None => None,
    };
    let failing = match number(FAILING_SINCE)? {
        Some(since_ms) => Some(Failing {
            since_ms,
            // Without them it is of no settings that there are.
            settings: text(FAILING_SETTINGS)?.unwrap_or_default(),
            cause: text(FAILURE)?.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(WebhookState { verified, failing, paused })
}

fn get<T: FromStr>(fields: &Fields, name: &'static str) -> Result<Option<T>, &'static str> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or(name)
}
