//! Settings of the store on Redis.

use std::fmt;
use std::time::Duration;

use redis::ConnectionInfo;

use super::cluster::topology::Address;
use super::connection::address::RedisAddress;
use crate::domain::RateLimit;

/// Settings of the store on Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// Where Redis is.
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

/// Where Redis is, with its credentials.
#[derive(Clone, Debug)]
pub enum RedisMode {
    /// One Redis.
    Standalone(RedisAddress),
    /// A cluster.
    Cluster(ClusterSettings),
}

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Some of its nodes, which name the others. There is at least one.
    pub seeds: Vec<RedisAddress>,
    /// Number of partitions.
    pub partitions: u16,
}

impl ClusterSettings {
    /// Returns the first seed.
    pub(crate) fn info(&self) -> Option<&ConnectionInfo> {
        self.seeds.first().map(RedisAddress::info)
    }

    /// Returns how a node is reached: as the first seed is, at another address.
    pub(crate) fn at(&self, address: &Address) -> Option<RedisAddress> {
        self.seeds.first().map(|seed| seed.at(address))
    }
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
