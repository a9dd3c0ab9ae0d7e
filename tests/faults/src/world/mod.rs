//! The processes of a run: Redis in one of its modes, servers, relays, receivers, and the proxies between
//! them.

use std::time::Instant;

use clap::ValueEnum;
use markread_harness::{Receiver, Redis, RedisCluster, Relay, Sentinels, Server, WebhookFile};

use crate::history::Moment;

/// How the servers reach Redis.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// One Redis.
    Standalone,
    /// A master with a replica, and three Sentinels.
    Sentinel,
    /// Three masters, each with a replica.
    Cluster,
}

/// What Redis keeps, and when it acknowledges.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Durability {
    /// Nothing on the disk.
    None,
    /// A snapshot every few seconds.
    Snapshots,
    /// An append-only file that is synced every second.
    Everysec,
    /// An append-only file that is synced before each answer.
    Always,
    /// The same, and `--replicas-ack 1`.
    AlwaysReplica,
}

/// The Redis processes.
#[allow(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Store {
    /// One Redis.
    Standalone(Redis),
    /// A master with a replica, and Sentinels.
    Sentinel(Sentinels),
    /// A cluster.
    Cluster(RedisCluster),
}

/// Everything that runs.
pub struct World {
    /// How the servers reach Redis.
    pub mode: Mode,
    /// What Redis keeps.
    pub durability: Durability,
    /// The Redis processes.
    pub store: Store,
    /// The servers. One that was killed is `None` until it is started again.
    pub servers: Vec<Option<Server>>,
    /// The relays, in the same way.
    pub relays: Vec<Option<Relay>>,
    /// The webhooks file of the relays.
    pub webhooks: WebhookFile,
    /// The receivers of the webhooks, by name.
    pub receivers: Vec<(String, Receiver)>,
    /// When the run began.
    pub began: Instant,
}

impl World {
    /// The time since the run began.
    pub fn now(&self) -> Moment {
        self.began.elapsed()
    }
}
