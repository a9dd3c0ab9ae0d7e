//! What the processes are started with.

use markread_harness::{Redis, RedisCluster, Sentinels};

use super::{Durability, Mode, Options, SENTINELS, Store};

/// Partitions of a cluster: few, so that each has events within a minute.
pub const PARTITIONS: u16 = 12;

/// The users of a run, whose events watchers and receivers get: consecutive IDs, so that a decimal more or
/// less in one shows as another user.
pub const FIRST_USER: u64 = 3_805_104_374;

/// After what silence a master is replaced: a busy machine is not to fail over by itself, which would be a fault that
/// no history has.
const DOWN_AFTER: &str = "sentinel down-after-milliseconds markread 2000";

/// The quotas: never used up, but by readers whose count is set near them.
pub(super) const RATE_LIMIT: u64 = 1_000_000;

/// Each Redis's log, in its directory.
pub(super) const REDIS_LOG: &str = "redis.log";

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

/// The webhooks of each run. Nobody is subscribed: some faults would erase that.
pub fn webhooks() -> Vec<Webhook> {
    vec![
        Webhook { name: "all", settings: "users = \"all\"", users: None, echo: false },
        Webhook { name: "echo", settings: "users = \"all\"\necho = true", users: None, echo: true },
    ]
}

/// Starts Redis.
pub(super) async fn store(options: &Options) -> Store {
    let settings = [redis_settings(options.durability), &["--logfile", REDIS_LOG]].concat();
    let settings = &settings[..];
    match options.mode {
        Mode::Standalone => Store::Standalone(Redis::with(settings).await),
        Mode::Sentinel => {
            let server = markread_harness::redis::default_server();
            let group = Sentinels::with(server, 1, settings, &[DOWN_AFTER]).await;
            for sentinel in 0..SENTINELS {
                group.hasten(sentinel).await;
            }
            Store::Sentinel(group)
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

/// The flags of servers, beside those of Redis. The stream is never trimmed: all of it is judged at the end.
pub(super) fn server_flags(durability: Durability) -> Vec<String> {
    let limit = RATE_LIMIT.to_string();
    let mut flags = vec!["--rate-limit", &limit, "--read-rate-limit", &limit];
    flags.extend(["--stream-maxlen", "0"]);
    if durability == Durability::AlwaysReplica {
        flags.extend(["--replicas-ack", "1"]);
    }
    flags.into_iter().map(str::to_owned).collect()
}
