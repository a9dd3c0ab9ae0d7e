//! Failovers by Sentinels.

use markread_harness::Sentinels;
use markread_harness::sentinels::MASTER_NAME;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{NotRun, Reach, duration};
use crate::world::{SENTINELS, Store, World};

fn group(world: &mut World) -> &mut Sentinels {
    let Store::Sentinel(group) = &mut world.store else { unreachable!("in Sentinel mode") };
    group
}

/// The master is killed, a replica is promoted, and the old one comes back as its replica.
pub(super) async fn failover(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let group = group(world);
    let lost = group.kill_master().await;
    group.wait_for_failover(lost).await;
    sleep(duration(random, 0..=1000)).await;
    group.node_mut(lost).restart().await;
    Ok(None)
}

/// A failover that an operator asks for, while the master runs.
pub(super) async fn asked(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let group = group(world);
    let master = group.master().await;
    let sentinel = group.sentinel(random.random_range(0..SENTINELS));
    sentinel.run::<()>(&format!("SENTINEL FAILOVER {MASTER_NAME}")).await;
    group.wait_for_failover(master).await;
    Ok(None)
}

/// One Sentinel is away.
pub(super) async fn sentinel_killed(
    world: &mut World,
    random: &mut StdRng,
) -> Result<Reach, NotRun> {
    let sentinel = random.random_range(0..SENTINELS);
    let group = group(world);
    group.sentinel_mut(sentinel).kill().await;
    sleep(duration(random, 500..=2000)).await;
    group.sentinel_mut(sentinel).restart().await;
    group.hasten(sentinel).await;
    Ok(None)
}
