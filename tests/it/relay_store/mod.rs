//! What the relay keeps in Redis: every operation against a real Redis, and against a cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use markread::domain::{DeliveryId, EntryId, UserId, WebhookName};
use markread::store::redis::{
    Access, ClusterSeeds, RedisAddress, RedisFiles, RedisMode, RedisStore,
};
use markread::store::relay::{
    DeadLetter, EntryContent, FeedEntry, FeedId, FeedLag, Lease, Leased, LetterId, NewEntries,
    RelayProcess, RelayStore, WebhookAdmin, WebhookState,
};
use markread_harness::cluster::tags;
use markread_harness::{Redis, RedisCluster, eventually};
use redis::{Cmd, FromRedisValue, cmd};

use crate::stores::{LIMIT, PARTITIONS, connected};

mod entries;
mod faults;
mod feeds;
mod lags;
mod letters;
mod losses;
mod operations;
mod rights;
mod webhooks;

const STREAM: &str = "direct_message_mark_read_events";

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Most bytes of a read, where it is of no matter.
const BYTES: usize = usize::MAX;

const SHORT: Duration = Duration::from_millis(100);

/// A store of the relay, with access to the Redis that has it.
pub(crate) struct Subject {
    pub(crate) store: Arc<RedisStore>,
    servers: Servers,
    /// The last entry of each feed that was read.
    read: Mutex<HashMap<FeedId, EntryId>>,
}

enum Servers {
    One(Box<Redis>),
    Cluster(RedisCluster),
}

impl Drop for Subject {
    /// Flushes what is left: payloads here are not events, which the harness would check them to be.
    fn drop(&mut self) {
        let nodes = match &self.servers {
            Servers::One(redis) => std::slice::from_ref(&**redis),
            Servers::Cluster(cluster) => cluster.nodes(),
        };
        for node in nodes {
            let client = redis::Client::open(node.url()).unwrap();
            if let Ok(mut connection) = client.get_connection_with_timeout(SHORT) {
                let _ = cmd("FLUSHALL").query::<()>(&mut connection);
            }
        }
    }
}

impl Subject {
    /// A store on one Redis.
    async fn one() -> Self {
        Self::on(Redis::start().await).await
    }

    async fn on(redis: Redis) -> Self {
        let url = redis.url();
        Self::of(store_at(&url).await, Servers::One(Box::new(redis)))
    }

    async fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).await;
        let store = store_of_cluster(&cluster.urls()).await;
        Self::of(store, Servers::Cluster(cluster))
    }

    fn of(store: Arc<RedisStore>, servers: Servers) -> Self {
        Self { store, servers, read: Mutex::default() }
    }

    fn redis(&self) -> &Redis {
        match &self.servers {
            Servers::One(redis) => redis,
            Servers::Cluster(_) => panic!("a cluster"),
        }
    }

    /// The key of a partition's stream.
    fn stream(&self, partition: usize) -> String {
        match &self.servers {
            Servers::One(_) => STREAM.to_owned(),
            Servers::Cluster(_) => format!("{STREAM}:{{{}}}", tags(PARTITIONS)[partition]),
        }
    }

    fn lease_key(&self, feed: &FeedId) -> String {
        let FeedId { webhook, partition } = feed;
        match &self.servers {
            Servers::One(_) => format!("markread:relay:lease:{webhook}:{partition}"),
            Servers::Cluster(_) => {
                let tag = &tags(PARTITIONS)[*partition];
                format!("markread:{{{tag}}}:relay:lease:{webhook}:{partition}")
            }
        }
    }

    /// Sends a command to the Redis that has a key.
    async fn send<T: FromRedisValue>(&self, key: &str, command: Cmd) -> T {
        let redis = match &self.servers {
            Servers::One(redis) => redis,
            Servers::Cluster(cluster) => cluster.first_owner(key),
        };
        command.query_async(&mut redis.connection().await).await.unwrap()
    }

    /// Adds an entry with these fields, and returns its ID.
    async fn add(&self, partition: usize, fields: &[(&str, &[u8])]) -> EntryId {
        let stream = self.stream(partition);
        let mut add = cmd("XADD");
        add.arg(&stream).arg("*");
        for (name, value) in fields {
            add.arg(name).arg(*value);
        }
        let id: String = self.send(&stream, add).await;
        id.parse().unwrap()
    }

    /// Adds so many events with numbered payloads.
    async fn add_many(&self, partition: usize, count: usize) -> Vec<EntryId> {
        let mut added = Vec::new();
        for n in 0..count {
            added.push(self.add(partition, &[("payload", n.to_string().as_bytes())]).await);
        }
        added
    }

    /// Acquires a feed whose group begins with the stream.
    async fn acquire(&self, feed: &FeedId, token: &str) -> Lease {
        let lease = lease(feed, token);
        let acquired = self.store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap();
        assert!(matches!(acquired, Leased::Held(_)), "{acquired:?}");
        lease
    }

    /// Reads after what was read before, as the relay does.
    async fn new_entries(&self, lease: &Lease, limit: usize) -> NewEntries {
        self.new_entries_within(lease, limit, BYTES).await
    }

    async fn new_entries_within(&self, lease: &Lease, limit: usize, bytes: usize) -> NewEntries {
        let after = self.read.lock().unwrap().get(&lease.feed).copied().unwrap_or(EntryId::ZERO);
        let read = held(self.store.new_entries(lease, after, limit, bytes).await.unwrap());
        if let Some(last) = read.entries.last() {
            self.read.lock().unwrap().insert(lease.feed.clone(), last.id);
        }
        read
    }

    /// How often Redis ran a command.
    async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.redis().run("INFO commandstats").await;
        let begin = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&begin));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
    }

    async fn lag(&self, feed: &FeedId) -> FeedLag {
        lag(&*self.store, feed).await
    }

    async fn pending(&self, lease: &Lease) -> Vec<FeedEntry> {
        held(self.store.pending(lease, EntryId::ZERO, 1000, BYTES).await.unwrap())
    }
}

/// A store that has connected to the Redis with this URL.
pub(crate) async fn store_at(url: &str) -> Arc<RedisStore> {
    let address = RedisAddress::new(url, None, RedisFiles::default()).unwrap();
    connected(RedisMode::Standalone(address), LIMIT, Access::Relay).await
}

/// A store that has connected to a cluster.
pub(crate) async fn store_of_cluster(urls: &[String]) -> Arc<RedisStore> {
    let address = |url: &String| RedisAddress::new(url, None, RedisFiles::default()).unwrap();
    let seeds = ClusterSeeds { seeds: urls.iter().map(address).collect(), partitions: PARTITIONS };
    connected(RedisMode::Cluster(seeds), LIMIT, Access::Relay).await
}

pub(crate) fn webhook() -> WebhookName {
    "one".parse().unwrap()
}

pub(crate) fn feed(partition: usize) -> FeedId {
    FeedId { webhook: webhook(), partition }
}

pub(crate) fn lease(feed: &FeedId, token: &str) -> Lease {
    Lease { feed: feed.clone(), token: token.into() }
}

pub(crate) fn held<T>(leased: Leased<T>) -> T {
    match leased {
        Leased::Held(value) => value,
        Leased::Lost => panic!("the lease is lost"),
    }
}

async fn lag(store: &dyn RelayStore, feed: &FeedId) -> FeedLag {
    let webhooks = std::slice::from_ref(&feed.webhook);
    store.lags(feed.partition, webhooks).await.unwrap().remove(0)
}

fn ids(entries: &[FeedEntry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id).collect()
}

fn stored(payload: &[u8]) -> EntryContent {
    EntryContent::Stored { payload: Some(Bytes::copy_from_slice(payload)), traceparent: None }
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}
