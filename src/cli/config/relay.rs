//! Validates the settings of `markread relay`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::redis::{check_stream, redis_mode};
use super::traces;
use crate::cli::args::{AdminRedisArgs, RelayArgs, TargetArgs};
use crate::domain::RateLimit;
use crate::relay::webhook::Targets;
use crate::relay::{RelayConfig, WebhooksFile};
use crate::store::redis::{Access, RedisConfig, RedisMode};
use crate::telemetry::{LogFormat, TracesConfig};

/// The stream of a command that reads no events.
const DEFAULT_STREAM: &str = "direct_message_mark_read_events";

/// Settings of `markread relay`.
pub struct RelaySettings {
    /// The store.
    pub redis: RedisConfig,
    /// The webhooks.
    pub webhooks: WebhooksFile,
    /// Settings of the deliveries.
    pub relay: RelayConfig,
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub ops_listen: SocketAddr,
    /// How long deliveries in flight may finish after SIGTERM.
    pub drain: Duration,
    /// Format of log lines; `None`: text on a terminal, otherwise JSON.
    pub log_format: Option<LogFormat>,
    /// The collector of spans, as of `serve`.
    pub traces: Result<Option<TracesConfig>, String>,
}

impl fmt::Debug for RelaySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelaySettings")
            .field("redis", &self.redis)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

impl RelayArgs {
    pub(in crate::cli) fn validate(self) -> Result<RelaySettings, String> {
        let mode = self.redis.mode()?;
        check_stream(&mode, &self.stream)?;
        Ok(RelaySettings {
            redis: redis_config(mode, self.stream),
            webhooks: WebhooksFile::read(&self.webhooks, self.targets.targets())?,
            relay: RelayConfig {
                check_grace: self.check_grace,
                max_attempts: self.max_attempts,
                max_age: self.max_age,
                dead_letters_maxlen: self.dead_letters_maxlen,
                concurrency: self.concurrency.into(),
            },
            ops_listen: self.ops_listen,
            drain: self.drain,
            log_format: self.log_format,
            traces: traces::read(&|name| std::env::var_os(name)),
        })
    }
}

impl TargetArgs {
    pub(super) fn targets(&self) -> Targets {
        Targets { allow_http: self.allow_http, allow_private: self.allow_private }
    }
}

impl AdminRedisArgs {
    pub(super) fn mode(&self) -> Result<RedisMode, String> {
        redis_mode(&self.redis_url, &self.redis)
    }

    /// Returns the settings of a store of which no events are read.
    pub(super) fn config(&self) -> Result<RedisConfig, String> {
        Ok(redis_config(self.mode()?, DEFAULT_STREAM.to_owned()))
    }
}

/// Returns the settings of a store that marks nothing. What only marks and reads of cursors need is never
/// used.
fn redis_config(mode: RedisMode, stream: String) -> RedisConfig {
    let unused = RateLimit { calls: 1, window_ms: 1 };
    RedisConfig {
        mode,
        stream,
        stream_maxlen: 0,
        stream_max_bytes: None,
        user_key_prefix: String::new(),
        user_object_max_bytes: 0,
        rate_limit: unused,
        read_rate_limit: unused,
        ack: None,
        access: Access::Relay,
    }
}
