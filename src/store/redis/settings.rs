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
    /// Replicas that must have a mark before it is answered OK.
    pub replicas_ack: Option<ReplicasAck>,
}

/// Script calls of one worker in flight if each is followed by a `WAIT` for replicas, which blocks the
/// worker's connection.
pub(crate) const WAITS_IN_FLIGHT_MAX: u32 = 16;

/// Replicas that must acknowledge a mark (`WAIT`) before it is answered OK.
#[derive(Clone, Copy, Debug)]
pub struct ReplicasAck {
    /// Number of replicas.
    pub replicas: u32,
    /// Longest time to wait for them.
    pub timeout: Duration,
}

impl ReplicasAck {
    /// Returns how long a reply may take because of the calls that wait before it on a connection.
    pub(crate) fn queue_time_max(&self) -> Duration {
        self.timeout.saturating_mul(WAITS_IN_FLIGHT_MAX)
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
