//! Settings of the store on Redis.

use std::fmt;
use std::time::Duration;

use super::connection::mode::RedisMode;
use crate::domain::RateLimit;

/// Settings of the store on Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// Where the keys are, with the credentials.
    pub mode: RedisMode,
    /// Key of the stream.
    pub stream: String,
    /// Approximate number of entries that the stream is trimmed to; 0 never trims.
    pub stream_maxlen: u64,
    /// Approximate size that the stream is trimmed to, in bytes; `None` is any size.
    pub stream_max_bytes: Option<u64>,
    /// Prefix of user objects' keys, before the user ID.
    pub user_key_prefix: String,
    /// Largest user object that appears in events, in bytes.
    pub user_object_max_bytes: usize,
    /// The quota of each reader.
    pub rate_limit: RateLimit,
    /// The read quota of each reader.
    pub read_rate_limit: RateLimit,
    /// Who must have a mark before it is answered OK; `None`: only Redis, in its memory.
    pub ack: Option<Ack>,
    /// What the Redis user must be allowed to do.
    pub access: Access,
}

/// What a process does with Redis: its user needs the rights for that, and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// It serves calls.
    #[default]
    Serve,
    /// It delivers events to webhooks, or is an operator's command about them.
    Relay,
}

/// The acknowledgement that a mark must have before it is answered OK.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Number of replicas that must have it (`WAIT`).
    pub replicas: u32,
    /// Whether Redis must have it on its disk (`WAITAOF`).
    pub fsync: bool,
    /// Longest time to wait for each of the two.
    pub timeout: Duration,
    /// Connections of each worker for script calls that wait: each has one in flight, since `WAIT` blocks
    /// its connection.
    pub connections: usize,
}

impl Ack {
    /// The default of [`Ack::connections`] (`cargo bench --bench acks`).
    pub const CONNECTIONS: usize = 4;

    /// Returns how long a connection is blocked at most.
    pub(crate) fn blocked_max(&self) -> Duration {
        let waits = u32::from(self.replicas > 0) + u32::from(self.fsync);
        self.timeout.saturating_mul(waits)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("mode", &self.mode)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
