//! What happens to a cluster: failovers, a slot that moves, a master that is erased.

use markread_harness::RedisCluster;
use markread_harness::cluster::{slot_of, tags};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{NotRun, Reach, choose, duration};
use crate::world::{Store, World};

fn cluster(world: &mut World) -> &mut RedisCluster {
    let Store::Cluster(cluster) = &mut world.store else { unreachable!("in cluster mode") };
    cluster
}

/// The slot of one of the partitions.
fn a_slot(world: &World, random: &mut StdRng) -> u16 {
    let tags = tags(world.partitions);
    slot_of(&tags[random.random_range(0..tags.len())])
}

/// The slot of a partition moves to another master, with its keys.
pub(super) async fn slot_moved(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let slot = a_slot(world, random);
    let cluster = cluster(world);
    let from = cluster.owner(slot).await;
    let mut others = cluster.owners().await;
    others.retain(|&owner| owner != from);
    cluster.move_slot(slot, choose(random, &others)).await;
    Ok(None)
}

/// A master is killed, a replica is promoted, and the old one comes back as its replica.
pub(super) async fn master_killed(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let slot = a_slot(world, random);
    let lost = cluster(world).owner(slot).await;
    let partitions = world.partitions_of(lost).await;
    let cluster = cluster(world);
    cluster.node_mut(lost).kill().await;
    cluster.wait_for_promotion(slot, lost).await;
    sleep(duration(random, 0..=1000)).await;
    cluster.node_mut(lost).restart().await;
    Ok(partitions)
}

/// A failover that an operator asks a replica for: the master waits until the replica has everything.
pub(super) async fn failover_asked(
    world: &mut World,
    random: &mut StdRng,
) -> Result<Reach, NotRun> {
    let slot = a_slot(world, random);
    let cluster = cluster(world);
    let master = cluster.owner(slot).await;
    let list = format!("CLUSTER REPLICAS {}", cluster.id(master));
    let replicas: Vec<String> = cluster.node(master).run(&list).await;
    let id = replicas[0].split(' ').next().expect("a replica's ID");
    let nodes = 0..cluster.nodes().len();
    let replica = nodes.into_iter().find(|&node| cluster.id(node) == id).expect("a node's ID");
    cluster.node(replica).run::<()>("CLUSTER FAILOVER").await;
    cluster.wait_for_promotion(slot, master).await;
    Ok(None)
}

/// One of the masters loses everything.
pub(super) async fn flush_one(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let master = world.a_master(random).await;
    let partitions = world.partitions_of(master).await;
    world.node(master).run::<()>("FLUSHALL").await;
    Ok(partitions)
}
