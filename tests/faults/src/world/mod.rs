//! The processes of a run: Redis in one of its modes, servers, relays, receivers, and the proxies between
//! them.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use markread_harness::{
    Receiver, Redis, RedisCluster, Relay, Sentinels, Server, WebhookFile, free_port,
};

use crate::history::Moment;
use crate::proxies::Proxies;

mod contents;
mod processes;
mod settings;
mod whole;

pub use self::settings::{FIRST_USER, PARTITIONS, Webhook, webhooks};

/// How many servers there are.
pub const SERVERS: usize = 3;

/// How many relays there are.
pub const RELAYS: usize = 2;

/// How many Sentinels there are.
pub const SENTINELS: usize = 3;

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

/// What a world is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the servers reach Redis.
    pub mode: Mode,
    /// What Redis keeps.
    pub durability: Durability,
    /// The `markread` binary.
    pub binary: PathBuf,
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

/// Everything that runs. All of it is killed when it is dropped.
pub struct World {
    /// What it was started with.
    pub options: Options,
    /// The Redis processes.
    pub store: Store,
    /// The servers. One that was killed is `None` until it is started again.
    pub servers: Vec<Option<Server>>,
    /// Where each server listens, also while it is dead.
    pub server_addresses: Vec<String>,
    /// Where clients reach each server: the proxy `client-0` and so on, if there are proxies.
    pub client_addresses: Vec<String>,
    /// Where each server reaches the only Redis: the proxy `store-0` and so on, if there are proxies. Sentinels
    /// and clusters announce addresses themselves.
    store_urls: Vec<String>,
    /// The proxies, if toxiproxy is installed.
    pub proxies: Option<Proxies>,
    /// The relays, in the same way as the servers.
    pub relays: Vec<Option<Relay>>,
    /// The webhooks file of the relays.
    pub webhook_file: WebhookFile,
    /// The receivers, in the order of [`webhooks`].
    pub receivers: Vec<Receiver>,
    /// How many partitions the readers are divided among.
    pub partitions: u16,
    /// When the run began.
    pub began: Instant,
}

impl World {
    /// Starts everything, and waits until it is whole.
    pub async fn start(options: &Options) -> Self {
        let store = settings::store(options).await;
        let addresses = [(); SERVERS].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut proxies = Proxies::start().await;
        let mut client_addresses = addresses.to_vec();
        let mut store_urls = Vec::new();
        for (server, address) in client_addresses.iter_mut().enumerate() {
            if let Some(proxies) = &mut proxies {
                *address = proxies.to(&format!("client-{server}"), address).await;
            }
            if let Store::Standalone(redis) = &store {
                store_urls.push(through(proxies.as_mut(), server, redis).await);
            }
        }
        let webhook_file = WebhookFile::new("");
        let mut receivers = Vec::new();
        let mut entries = String::new();
        for webhook in webhooks() {
            let receiver = Receiver::start().await;
            entries += &webhook_file.entry(webhook.name, &receiver.url(), webhook.settings);
            receivers.push(receiver);
        }
        webhook_file.write(&entries);
        let mut world = Self {
            options: options.clone(),
            store,
            servers: (0..SERVERS).map(|_| None).collect(),
            server_addresses: addresses.to_vec(),
            client_addresses,
            store_urls,
            proxies,
            relays: (0..RELAYS).map(|_| None).collect(),
            webhook_file,
            receivers,
            partitions: if options.mode == Mode::Cluster { PARTITIONS } else { 1 },
            began: Instant::now(),
        };
        for server in 0..SERVERS {
            world.start_server(server, &[]).await;
        }
        for relay in 0..RELAYS {
            world.start_relay(relay).await;
        }
        world.wait_until_whole().await;
        world.began = Instant::now();
        world
    }

    /// The time since the run began.
    pub fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// How the servers reach Redis.
    pub fn mode(&self) -> Mode {
        self.options.mode
    }

    /// What Redis keeps.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }
}

/// The URL of a Redis, for one of the servers.
async fn through(proxies: Option<&mut Proxies>, server: usize, redis: &Redis) -> String {
    let Some(proxies) = proxies else { return redis.url() };
    let address = format!("127.0.0.1:{}", redis.port);
    format!("redis://{}", proxies.to(&format!("store-{server}"), &address).await)
}
