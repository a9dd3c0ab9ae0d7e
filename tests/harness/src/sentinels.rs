//! A master with replicas, and three Sentinels that watch it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::write;
use std::time::Duration;

use crate::redis::default_server;
use crate::{Redis, eventually};

/// The name that Sentinels know the master by.
pub const MASTER_NAME: &str = "markread";

/// How many Sentinels must agree that the master is gone.
const QUORUM: usize = 2;

const DOWN_AFTER_MS: u64 = 500;
const FAILOVER_TIMEOUT_MS: u64 = 2000;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A failover that fails is tried again after twice its timeout.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);

/// A group of servers and its Sentinels. All are killed when it is dropped.
pub struct Sentinels {
    /// The master of the start, then its replicas.
    nodes: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts a group of the tests' default server, and waits until replicas and Sentinels know each other.
    pub async fn start(replicas: usize) -> Self {
        Self::with(default_server(), replicas, &[], &[]).await
    }

    /// The same as [`Sentinels::start`], of another server and with more settings: for each server, as on the
    /// command line, and for each Sentinel, lines of its configuration.
    pub async fn with(
        server: impl Into<OsString>,
        replicas: usize,
        settings: &[&str],
        sentinel_settings: &[&str],
    ) -> Self {
        let server = server.into();
        let fast = ["--repl-diskless-sync-delay", "0"];
        let mut nodes = vec![Redis::of_server(&server, &[&fast, settings].concat())];
        let master_port = nodes[0].port;
        nodes[0].write_file("");
        for _ in 0..replicas {
            let mut replica = Redis::of_server(&server, &[&fast, settings].concat());
            replica.write_file(&format!("replicaof 127.0.0.1 {master_port}\n"));
            nodes.push(replica);
        }
        for node in &mut nodes {
            node.restart().await;
        }
        let sentinels = (0..3).map(|_| {
            let sentinel = Redis::sentinel(&server);
            write(sentinel.sentinel_file(), configuration(master_port, sentinel_settings)).unwrap();
            sentinel
        });
        let mut group = Self { nodes, sentinels: sentinels.collect() };
        for sentinel in &mut group.sentinels {
            sentinel.restart().await;
        }
        group.wait_until_whole().await;
        group
    }

    /// Waits until all replicas are in sync, and each Sentinel knows them and the other Sentinels.
    pub async fn wait_until_whole(&self) {
        let others = self.nodes.len() - 1;
        for node in &self.nodes {
            eventually("the replicas are in sync", START_LIMIT, async || {
                let replication = node.info("INFO replication").await;
                let link = replication.get("master_link_status");
                link.is_none_or(|status| status == "up").then_some(())
            })
            .await;
        }
        for sentinel in &self.sentinels {
            eventually("the Sentinels know all", START_LIMIT, async || {
                let info = sentinel.info("INFO sentinel").await;
                let known = format!("slaves={others},sentinels={}", self.sentinels.len());
                let line = info.get("master0")?;
                (line.contains("status=ok") && line.ends_with(&known)).then_some(())
            })
            .await;
        }
    }

    /// The URLs of the Sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::url).collect()
    }

    /// The same, as `--redis-url` takes them.
    pub fn url(&self) -> String {
        self.urls().join(",")
    }

    /// A server of the group by its number.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// The same as [`Sentinels::node`], for changing it.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// A Sentinel by its number.
    pub fn sentinel(&self, index: usize) -> &Redis {
        &self.sentinels[index]
    }

    /// Lets a Sentinel that was started learn of changes and tell of them within a second: a master that comes back
    /// after a failover would be left alone for eight, and all would pause for thirty when the machine was
    /// busy for two. Redis before 7.0 does not know this, and stays slow.
    pub async fn hasten(&self, index: usize) {
        let periods = "info-period 1000 publish-period 200 tilt-period 2000";
        let _: Option<()> =
            self.sentinels[index].try_run(&format!("SENTINEL DEBUG {periods}")).await;
    }

    /// The same as [`Sentinels::sentinel`], for changing it.
    pub fn sentinel_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.sentinels[index]
    }

    /// All processes, the Sentinels last, for changing them.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Redis> {
        self.nodes.iter_mut().chain(&mut self.sentinels)
    }

    /// The master that all Sentinels which run name, and that says so itself, or `None` while there is none.
    pub async fn try_master(&self) -> Option<usize> {
        let ask = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER_NAME}");
        let mut named = None;
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            let (_, port): (String, u16) = sentinel.try_run(&ask).await?;
            if named.is_some_and(|known| known != port) {
                return None;
            }
            named = Some(port);
        }
        let master = self.nodes.iter().position(|node| Some(node.port) == named)?;
        let node = &self.nodes[master];
        if !node.is_running() {
            return None;
        }
        let (role, ..): (String, redis::Value, redis::Value) = node.try_run("ROLE").await?;
        (role == "master").then_some(master)
    }

    /// How Sentinels see the master: `master` alone, unless it is thought to be down or is being replaced.
    pub async fn flags(&self) -> Vec<Option<String>> {
        let ask = format!("SENTINEL MASTER {MASTER_NAME}");
        let mut flags = Vec::new();
        for sentinel in &self.sentinels {
            let known: Option<HashMap<String, String>> = sentinel.try_run(&ask).await;
            flags.push(known.and_then(|mut known| known.remove("flags")));
        }
        flags
    }

    /// The master, once all agree who that is.
    pub async fn master(&self) -> usize {
        eventually("there is a master", FAILOVER_LIMIT, async || self.try_master().await).await
    }

    /// Kills the master with `kill -9`, and returns which server it was.
    pub async fn kill_master(&mut self) -> usize {
        let master = self.master().await;
        self.nodes[master].kill().await;
        master
    }

    /// Waits until another server is the master, and returns that.
    pub async fn wait_for_failover(&self, lost: usize) -> usize {
        eventually("a replica is promoted", FAILOVER_LIMIT, async || {
            self.try_master().await.filter(|&master| master != lost)
        })
        .await
    }
}

/// A Sentinel's configuration, which it writes to itself.
fn configuration(master_port: u16, settings: &[&str]) -> String {
    let own = [
        format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {master_port} {QUORUM}"),
        format!("sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}"),
        format!("sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}"),
    ];
    let settings = settings.iter().map(ToString::to_string);
    own.into_iter().chain(settings).map(|line| line + "\n").collect()
}
