//! A real Redis Cluster: masters with replicas, each a process on free ports of loopback.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::certificates::{Authority, Certificate};
use crate::redis::default_server;
use crate::{Redis, eventually, free_port};

mod contents;
mod moves;
mod nodes;
mod tags;

pub use self::nodes::Node;
pub use self::tags::{partition_of, slot_of, tags};

/// The number of hash slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// After how long without an answer a node counts as failed.
const NODE_TIMEOUT_MS: &str = "1500";

const START_LIMIT: Duration = Duration::from_secs(60);

/// After how long a replica is promoted at the latest, once its master is gone.
const PROMOTION_LIMIT: Duration = Duration::from_secs(60);

/// A cluster. The masters are the first nodes, then come the replicas of each; failovers change that.
pub struct RedisCluster {
    nodes: Vec<Redis>,
    /// Each node's ID in the cluster.
    ids: Vec<String>,
    masters: usize,
}

impl RedisCluster {
    /// Starts a cluster of the tests' default server, with so many replicas for each master, and waits until
    /// all slots are served and all replicas are in sync.
    pub async fn start(masters: usize, replicas: usize) -> Self {
        Self::with(masters, replicas, &[]).await
    }

    /// The same as [`RedisCluster::start`], with more settings for each node.
    pub async fn with(masters: usize, replicas: usize, settings: &[&str]) -> Self {
        Self::of_server(default_server(), masters, replicas, settings).await
    }

    /// The same as [`RedisCluster::with`], of another server.
    pub async fn of_server(
        server: impl Into<OsString>,
        masters: usize,
        replicas: usize,
        settings: &[&str],
    ) -> Self {
        let mut cluster = Self::apart(server, masters, replicas, settings).await;
        cluster.join().await;
        cluster
    }

    /// The same as [`RedisCluster::start`], with TLS between the nodes and at the ports that clients are told.
    /// The certificate must be valid for the address 127.0.0.1.
    pub async fn over_tls(
        masters: usize,
        replicas: usize,
        certificate: &Certificate,
        ca: &Authority,
    ) -> Self {
        let file = ca.file();
        let files = ["--tls-cert-file", &certificate.chain, "--tls-key-file", &certificate.key];
        let more = ["--tls-ca-cert-file", &file, "--tls-auth-clients", "optional"];
        let within = ["--tls-replication", "yes", "--tls-cluster", "yes"];
        Self::with(masters, replicas, &[files, more, within].concat()).await
    }

    /// Nodes that run, and do not know each other. No slot is served.
    pub async fn apart(
        server: impl Into<OsString>,
        masters: usize,
        replicas: usize,
        settings: &[&str],
    ) -> Self {
        let server = server.into();
        let has_tls = settings.contains(&"--tls-cluster");
        let nodes = (0..masters * (1 + replicas)).map(|_| {
            let [bus, tls] = [(); 2].map(|()| free_port().to_string());
            let own = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let times =
                ["--cluster-node-timeout", NODE_TIMEOUT_MS, "--repl-diskless-sync-delay", "0"];
            // Other slots are served while those of one master are not.
            let coverage = ["--cluster-require-full-coverage", "no"];
            let tls: &[&str] = if has_tls { &["--tls-port", &tls] } else { &[] };
            Redis::of_server(&server, &[&own[..], &times, &coverage, tls, settings].concat())
        });
        let mut nodes: Vec<_> = nodes.collect();
        for node in &mut nodes {
            node.launch();
        }
        let mut ids = Vec::new();
        for node in &nodes {
            node.wait_until_up().await;
            ids.push(node.run("CLUSTER MYID").await);
        }
        Self { nodes, ids, masters }
    }

    /// Makes them one cluster, the slots spread evenly.
    async fn join(&mut self) {
        for master in 0..self.masters {
            self.add_slots(master, self.share(master)).await;
        }
        self.meet().await;
        for replica in self.masters..self.nodes.len() {
            self.replicate(replica, replica % self.masters).await;
        }
        self.wait_until_whole().await;
    }

    /// The slots that a master gets of an even spread.
    pub fn share(&self, master: usize) -> RangeInclusive<u16> {
        let bound =
            |number: usize| u16::try_from(number * usize::from(SLOTS) / self.masters).unwrap();
        bound(master)..=bound(master + 1) - 1
    }

    /// The master that got a key's slot of an even spread.
    pub fn first_owner(&self, key: &str) -> &Redis {
        let slot = slot_of(key);
        let mut masters = 0..self.masters;
        &self.nodes[masters.find(|&master| self.share(master).contains(&slot)).unwrap()]
    }

    /// Gives slots that nobody has to a node.
    pub async fn add_slots(&self, node: usize, slots: RangeInclusive<u16>) {
        let (first, last) = slots.into_inner();
        self.nodes[node].run::<()>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
    }

    /// Lets all nodes know each other, each with an epoch of its own.
    pub async fn meet(&self) {
        let first = self.node(0);
        for (index, node) in self.nodes.iter().enumerate() {
            node.run::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await;
            if index > 0 {
                let bus = node.setting("--cluster-port").unwrap();
                let plain = node.port.to_string();
                let port = node.setting("--tls-port").unwrap_or(&plain);
                first.run::<()>(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await;
            }
        }
        for node in &self.nodes {
            eventually("all nodes know each other", START_LIMIT, async || {
                let met = node.topology().await.iter().filter(|known| known.is_connected()).count();
                (met == self.nodes.len()).then_some(())
            })
            .await;
        }
    }

    async fn replicate(&self, replica: usize, master: usize) {
        let replicate = format!("CLUSTER REPLICATE {}", self.id(master));
        self.nodes[replica].run::<()>(&replicate).await;
    }

    /// Waits until all slots are served as each node sees it, and all replicas are in sync.
    pub async fn wait_until_whole(&self) {
        for node in &self.nodes {
            eventually("the cluster is whole", START_LIMIT, async || {
                let cluster = node.info("CLUSTER INFO").await;
                let replication = node.info("INFO replication").await;
                let whole = cluster["cluster_state"] == "ok"
                    && cluster["cluster_slots_ok"] == SLOTS.to_string()
                    && replication.get("master_link_status").is_none_or(|status| status == "up");
                whole.then_some(())
            })
            .await;
        }
    }

    /// The URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Redis| match node.setting("--tls-port") {
            Some(port) => format!("rediss://127.0.0.1:{port}"),
            None => node.url(),
        };
        self.nodes.iter().map(url).collect()
    }

    /// The seeds, as `--redis-url` takes them.
    pub fn url(&self) -> String {
        self.urls().join(",")
    }

    /// A node by its number.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// The ID of a node in the cluster.
    pub fn id(&self, index: usize) -> &str {
        &self.ids[index]
    }

    /// The same as [`RedisCluster::node`], for changing it.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The same as [`RedisCluster::nodes`], for changing them.
    pub fn nodes_mut(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }

    /// The master of a slot, as a majority of the nodes that run sees it.
    pub async fn owner(&self, slot: u16) -> usize {
        eventually("a slot has one master", PROMOTION_LIMIT, async || self.try_owner(slot).await)
            .await
    }

    async fn try_owner(&self, slot: u16) -> Option<usize> {
        let mut votes = vec![0; self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let Some(known) = node.try_topology().await else { continue };
            let Some(master) = known.iter().find(|known| known.is_master_of(slot)) else {
                continue;
            };
            votes[self.ids.iter().position(|id| *id == master.id)?] += 1;
        }
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        votes.iter().position(|&votes| 2 * votes > running)
    }

    /// The masters of now, in the order of their slots.
    pub async fn owners(&self) -> Vec<usize> {
        let mut owners = Vec::new();
        for master in 0..self.masters {
            owners.push(self.owner(*self.share(master).start()).await);
        }
        owners
    }

    /// Waits until a slot has another master than this one, which can be asked, and returns that.
    pub async fn wait_for_promotion(&self, slot: u16, lost: usize) -> usize {
        eventually("a replica is promoted", PROMOTION_LIMIT, async || {
            let owner = self.try_owner(slot).await?;
            (owner != lost).then_some(owner)
        })
        .await
    }

    /// Runs a command on the master of a key's slot.
    pub async fn run_on_key<T: redis::FromRedisValue>(&self, key: &str, command: &str) -> T {
        let owner = self.owner(slot_of(key)).await;
        self.nodes[owner].run(command).await
    }

    /// The keys that match a pattern, each with the master that it is on.
    pub async fn keys(&self, pattern: &str) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        for owner in self.owners().await {
            let keys: Vec<String> = self.nodes[owner].run(&format!("KEYS {pattern}")).await;
            all.extend(keys.into_iter().map(|key| (owner, key)));
        }
        all
    }
}
