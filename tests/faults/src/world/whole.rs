//! Whether everything runs, and knows of everything else.

use std::time::{Duration, Instant};

use markread_harness::Redis;
use markread_harness::cluster::slot_of;
use markread_harness::server::get;
use tokio::time::{sleep, timeout};

use super::{Store, World};

/// After how long everything must be back once the cause of a fault is gone. A Sentinel that failed over in
/// vain tries again after seconds, and so does a cluster's replica.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(50);
const PAGE_LIMIT: Duration = Duration::from_secs(2);

impl World {
    /// Waits until all processes run, Redis answers with its replicas in sync, and servers and relays are
    /// ready.
    pub async fn wait_until_whole(&self) {
        self.try_wait_until_whole().await.unwrap();
    }

    /// The same as [`World::wait_until_whole`]. Returns what was missing last, if anything was, or what is
    /// missing still if it takes too long.
    pub async fn try_wait_until_whole(&self) -> Result<Option<String>, String> {
        let began = Instant::now();
        let mut last = None;
        loop {
            let Some(missing) = self.missing().await else { return Ok(last) };
            if began.elapsed() > WHOLE_LIMIT {
                return Err(format!("{missing}, for {WHOLE_LIMIT:?}"));
            }
            last = Some(missing);
            sleep(POLL_INTERVAL).await;
        }
    }

    /// What is missing for the world to be whole.
    async fn missing(&self) -> Option<String> {
        if let Some(problem) = self.problem_of_store().await {
            return Some(problem);
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

    /// What keeps Redis from being whole: each master has its replica, and everyone knows the masters.
    async fn problem_of_store(&self) -> Option<String> {
        let mut masters = 0;
        let nodes = self.nodes();
        for (number, node) in nodes.iter().enumerate() {
            let Some(info) = node.try_run::<String>("INFO replication").await else {
                return Some(format!("Redis {number} does not answer"));
            };
            let has = |line: &str| info.lines().any(|known| known == line);
            if has("role:master") {
                masters += 1;
                let has_replica = has("connected_slaves:1") && info.contains("state=online");
                if nodes.len() > 1 && !has_replica {
                    return Some(format!("the master {number} has no replica in sync"));
                }
            } else if !has("master_link_status:up") {
                return Some(format!("the replica {number} is not in sync"));
            }
        }
        match &self.store {
            Store::Standalone(_) => None,
            Store::Sentinel(group) => {
                if masters != 1 || group.try_master().await.is_none() {
                    return Some("the Sentinels do not agree on the master".to_owned());
                }
                // A failover that has begun goes on though the master is back.
                let is_at_rest = |flags: &Option<String>| flags.as_deref() == Some("master");
                let restless = group.flags().await.into_iter().find(|flags| !is_at_rest(flags))?;
                Some(format!("a Sentinel says of the master: {restless:?}"))
            }
            Store::Cluster(_) => {
                for (number, node) in nodes.into_iter().enumerate() {
                    let info: Option<String> = node.try_run("CLUSTER INFO").await;
                    let is_ok = info.is_some_and(|info| {
                        info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                    });
                    if !is_ok {
                        return Some(format!("not all slots are served, says Redis {number}"));
                    }
                }
                (masters != 3).then(|| format!("there are {masters} masters"))
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
