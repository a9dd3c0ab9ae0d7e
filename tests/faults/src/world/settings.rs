//! What the processes are started with.

use markread_harness::{Redis, RedisCluster, Sentinels};

use super::{Durability, Mode, Options, Store};

/// Partitions of a cluster: few, so that each has events within a minute.
pub const PARTITIONS: u16 = 12;

/// The users of a run, whose events watchers and receivers get: consecutive IDs, so that a decimal more or
/// less in one shows as another user.
pub const FIRST_USER: u64 = 3_805_104_374;

/// A webhook, and whose events it is owed.
pub struct Webhook {
    /// Its name.
    pub name: &'static str,
    /// Its lines in the webhooks file.
    pub(super) settings: &'static str,
    /// The users that are subscribed, or `None` for everyone.
    pub users: Option<Vec<u64>>,
    /// Whether readers get their own events too.
    pub echo: bool,
}

/// The webhooks of each run.
pub fn webhooks() -> Vec<Webhook> {
    let subscribed = (FIRST_USER..FIRST_USER + 12).collect();
    vec![
        Webhook { name: "all", settings: "users = \"all\"", users: None, echo: false },
        Webhook {
            name: "subscribed",
            settings: "echo = true",
            users: Some(subscribed),
            echo: true,
        },
    ]
}

/// Starts Redis.
pub(super) async fn store(options: &Options) -> Store {
    let settings = redis_settings(options.durability);
    match options.mode {
        Mode::Standalone => Store::Standalone(Redis::with(settings).await),
        Mode::Sentinel => {
            let server = markread_harness::redis::default_server();
            Store::Sentinel(Sentinels::with(server, 1, settings, &[]).await)
        }
        Mode::Cluster => Store::Cluster(RedisCluster::with(3, 1, settings).await),
    }
}

/// What is added to the harness's settings, which persist nothing.
fn redis_settings(durability: Durability) -> &'static [&'static str] {
    match durability {
        Durability::None => &[],
        Durability::Snapshots => &["--save", "2 1"],
        Durability::Everysec => &["--appendonly", "yes", "--appendfsync", "everysec"],
        Durability::Always | Durability::AlwaysReplica => {
            &["--appendonly", "yes", "--appendfsync", "always"]
        }
    }
}

/// The flags of servers, beside those of Redis. The quotas are never used up, but by readers whose count is
/// set near the end.
pub(super) fn server_flags(durability: Durability) -> Vec<&'static str> {
    let mut flags = vec!["--rate-limit", "1000000", "--read-rate-limit", "1000000"];
    if durability == Durability::AlwaysReplica {
        flags.extend(["--replicas-ack", "1"]);
    }
    flags
}
