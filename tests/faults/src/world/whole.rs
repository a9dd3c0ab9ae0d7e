//! Whether everything runs, and knows of everything else.

use std::time::Duration;

use markread_harness::cluster::slot_of;
use markread_harness::server::get;
use markread_harness::{Redis, eventually};

use super::{Store, World};

/// After how long everything must be back once the cause of a fault is gone. A Sentinel that failed over in
/// vain tries again after seconds, and so does a cluster's replica.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// Waits until all processes run, Redis answers with its replicas in sync, and servers and relays are ready.
    pub async fn wait_until_whole(&self) {
        eventually("Redis is whole", WHOLE_LIMIT, async || {
            self.is_store_whole().await.then_some(())
        })
        .await;
        let servers = self.servers.iter().flatten().map(|server| ("server", &server.ops));
        let relays = self.relays.iter().flatten().map(|relay| ("relay", &relay.ops));
        for (what, ops) in servers.chain(relays) {
            eventually(&format!("a {what} is ready"), WHOLE_LIMIT, async || {
                let (status, page) = get(ops, "/readyz").await?;
                let is_short = ["are not served", "replica", "paused", "not checked"]
                    .iter()
                    .any(|words| page.contains(words));
                (status == 200 && !is_short).then_some(())
            })
            .await;
        }
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
