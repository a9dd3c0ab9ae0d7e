//! The Redis processes of a world by their numbers.

use markread_harness::Redis;
use markread_harness::cluster::{slot_of, tags};
use rand::rngs::StdRng;

use super::{Reach, choose};
use crate::world::{Store, World};

impl World {
    /// A Redis by its number: 0 where there is one.
    pub(super) fn node(&self, node: usize) -> &Redis {
        match &self.store {
            Store::Standalone(redis) => redis,
            Store::Sentinel(group) => group.node(node),
            Store::Cluster(cluster) => cluster.node(node),
        }
    }

    /// The same as [`World::node`], for changing it.
    pub(super) fn node_mut(&mut self, node: usize) -> &mut Redis {
        match &mut self.store {
            Store::Standalone(redis) => redis,
            Store::Sentinel(group) => group.node_mut(node),
            Store::Cluster(cluster) => cluster.node_mut(node),
        }
    }

    /// One of the masters.
    pub(super) async fn a_master(&self, random: &mut StdRng) -> usize {
        match &self.store {
            Store::Standalone(_) => 0,
            Store::Sentinel(group) => group.master().await,
            Store::Cluster(cluster) => choose(random, &cluster.owners().await),
        }
    }

    /// One of the replicas. There is none in standalone mode.
    pub(super) async fn a_replica(&self, random: &mut StdRng) -> usize {
        let masters = match &self.store {
            Store::Standalone(_) => vec![0],
            Store::Sentinel(group) => vec![group.master().await],
            Store::Cluster(cluster) => cluster.owners().await,
        };
        let replicas = (0..self.nodes().len()).filter(|node| !masters.contains(node));
        choose(random, &replicas.collect::<Vec<_>>())
    }

    /// The partitions that a master has.
    pub(super) async fn partitions_of(&self, master: usize) -> Reach {
        let Store::Cluster(cluster) = &self.store else { return None };
        let mut partitions = Vec::new();
        for (partition, tag) in tags(self.partitions).iter().enumerate() {
            if cluster.owner(slot_of(tag)).await == master {
                partitions.push(partition);
            }
        }
        Some(partitions)
    }
}
