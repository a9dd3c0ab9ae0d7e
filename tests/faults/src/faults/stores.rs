//! Redis processes that are killed, stopped, restarted and replaced.

use std::time::Duration;

use markread_harness::{Redis, eventually};
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::guards::Frozen;
use super::processes::End;
use super::{NotRun, Reach, duration};
use crate::world::{Store, World};

const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// A master. Where others can take its place they may do so meanwhile.
pub(super) async fn master(
    world: &mut World,
    random: &mut StdRng,
    end: End,
) -> Result<Reach, NotRun> {
    let master = world.a_master(random).await;
    let partitions = world.partitions_of(master).await;
    at(world, master, random, end).await;
    Ok(partitions)
}

/// A replica.
pub(super) async fn replica(
    world: &mut World,
    random: &mut StdRng,
    end: End,
) -> Result<Reach, NotRun> {
    let replica = world.a_replica(random).await;
    at(world, replica, random, end).await;
    Ok(None)
}

async fn at(world: &mut World, node: usize, random: &mut StdRng, end: End) {
    match end {
        End::Killed => {
            world.node_mut(node).kill().await;
            sleep(duration(random, 0..=1000)).await;
            world.node_mut(node).restart().await;
        }
        End::Stopped => {
            let _frozen = Frozen::new(world.node(node));
            sleep(duration(random, 1000..=3000)).await;
        }
        End::Restarted => {
            world.node_mut(node).shut_down().await;
            sleep(duration(random, 0..=300)).await;
            world.node_mut(node).restart().await;
        }
    }
}

/// A replica is put beside the only Redis, and takes over its address when that is shut down, as behind a
/// virtual IP address: nothing is lost, since a master that is shut down waits for its replicas.
pub(super) async fn replica_promoted(world: &mut World) -> Result<Reach, NotRun> {
    let Store::Standalone(redis) = &mut world.store else { unreachable!("in standalone mode") };
    let port = redis.port;
    let mut other = Redis::like(redis);
    other.restart().await;
    other.run::<()>(&format!("REPLICAOF 127.0.0.1 {port}")).await;
    eventually("the replica is in sync", SYNC_LIMIT, async || {
        let info: String = other.try_run("INFO replication").await?;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    redis.shut_down().await;
    other.run::<()>("REPLICAOF NO ONE").await;
    other.run::<()>(&format!("CONFIG SET port {port}")).await;
    other.port = port;
    other.wait_until_up().await;
    *redis = other;
    Ok(None)
}
