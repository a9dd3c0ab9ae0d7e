//! Whether everything runs, and knows of everything else.

use std::time::{Duration, Instant};

use markread_harness::Redis;
use markread_harness::cluster::slot_of;
use markread_harness::server::get;
use tokio::time::{sleep, timeout};

use super::{Store, World};

/// After how long everything must be back once the cause of a fault is gone. A Sentinel that failed over in
/// vain tries again after seconds, and so does a cluster's replica.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(50);
const PAGE_LIMIT: Duration = Duration::from_secs(2);

impl World {
    /// Waits until all processes run, Redis answers with its replicas in sync, and servers and relays are
    /// ready.
    pub async fn wait_until_whole(&self) {
        self.try_wait_until_whole().await.unwrap();
    }

    /// The same as [`World::wait_until_whole`]. Returns what is missing if it takes too long.
    pub async fn try_wait_until_whole(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let Some(missing) = self.missing().await else { return Ok(()) };
            if began.elapsed() > WHOLE_LIMIT {
                return Err(format!("{missing}, for {WHOLE_LIMIT:?}"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// What is missing for the world to be whole.
    async fn missing(&self) -> Option<String> {
        if !self.is_store_whole().await {
            return Some("Redis is not whole".to_owned());
        }
        let servers = self.servers.iter().map(|server| server.as_ref().map(|server| &server.ops));
        let relays = self.relays.iter().map(|relay| relay.as_ref().map(|relay| &relay.ops));
        for (number, ops) in servers.enumerate() {
            if let Some(problem) = problem_at(ops).await {
                return Some(format!("server {number} {problem}"));
            }
        }
        for (number, ops) in relays.enumerate() {
            if let Some(problem) = problem_at(ops).await {
                return Some(format!("relay {number} {problem}"));
            }
        }
        None
    }

    async fn is_store_whole(&self) -> bool {
        let mut masters = 0;
        let nodes = self.nodes();
        for node in &nodes {
            let Some(info) = node.try_run::<String>("INFO replication").await else { return false };
            let has = |line: &str| info.lines().any(|known| known == line);
            if has("role:master") {
                masters += 1;
                if nodes.len() > 1 && !(has("connected_slaves:1") && info.contains("state=online"))
                {
                    return false;
                }
            } else if !has("master_link_status:up") {
                return false;
            }
        }
        match &self.store {
            Store::Standalone(_) => true,
            Store::Sentinel(group) => masters == 1 && group.try_master().await.is_some(),
            Store::Cluster(_) => {
                for node in nodes {
                    let info: Option<String> = node.try_run("CLUSTER INFO").await;
                    let is_ok = info.is_some_and(|info| {
                        info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                    });
                    if !is_ok {
                        return false;
                    }
                }
                masters == 3
            }
        }
    }

    /// The Redis processes that hold data, masters and replicas.
    pub fn nodes(&self) -> Vec<&Redis> {
        match &self.store {
            Store::Standalone(redis) => vec![redis],
            Store::Sentinel(group) => (0..2).map(|node| group.node(node)).collect(),
            Store::Cluster(cluster) => cluster.nodes().iter().collect(),
        }
    }

    /// All Redis processes that run, Sentinels included.
    pub(super) fn redis_processes(&mut self) -> Vec<&mut Redis> {
        let all: Vec<&mut Redis> = match &mut self.store {
            Store::Standalone(redis) => vec![redis],
            Store::Sentinel(group) => group.processes_mut().collect(),
            Store::Cluster(cluster) => cluster.nodes_mut().iter_mut().collect(),
        };
        all.into_iter().filter(|redis| redis.has_process()).collect()
    }

    /// The masters.
    pub async fn masters(&self) -> Vec<&Redis> {
        match &self.store {
            Store::Standalone(redis) => vec![redis],
            Store::Sentinel(group) => vec![group.node(group.master().await)],
            Store::Cluster(cluster) => {
                let mut owners = cluster.owners().await;
                owners.sort_unstable();
                owners.dedup();
                owners.into_iter().map(|owner| cluster.node(owner)).collect()
            }
        }
    }

    /// The master that has a key.
    pub async fn master_of(&self, key: &str) -> &Redis {
        match &self.store {
            Store::Cluster(cluster) => cluster.node(cluster.owner(slot_of(key)).await),
            _ => self.masters().await[0],
        }
    }
}

/// What `/readyz` says is wrong. Warnings about settings of Redis are not.
async fn problem_at(ops: Option<&String>) -> Option<String> {
    let Some(ops) = ops else { return Some("is dead".to_owned()) };
    let Some((status, page)) = timeout(PAGE_LIMIT, get(ops, "/readyz")).await.ok().flatten() else {
        return Some("does not answer".to_owned());
    };
    let problems = ["are not served", "replica", "paused", "not checked"];
    let is_whole = status == 200 && !problems.iter().any(|problem| page.contains(problem));
    (!is_whole).then(|| format!("says {}", page.trim()))
}
