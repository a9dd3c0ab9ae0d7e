//! Failovers by Sentinels.

use std::time::Duration;

use markread_harness::sentinels::MASTER_NAME;
use markread_harness::{Sentinels, eventually};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{NotRun, Reach, duration};
use crate::world::{SENTINELS, Store, World};

const ASKED_LIMIT: Duration = Duration::from_secs(120);

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

/// A failover that an operator asks for, while the master runs. A Sentinel gives up one that takes long, as on a busy
/// machine, and does not try again: then it is asked again.
pub(super) async fn asked(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let group = group(world);
    let master = group.master().await;
    let port = group.node(master).port;
    let sentinel = group.sentinel(random.random_range(0..SENTINELS));
    let [where_it_is, fail_over] =
        ["GET-MASTER-ADDR-BY-NAME", "FAILOVER"].map(|ask| format!("SENTINEL {ask} {MASTER_NAME}"));
    eventually("a replica is promoted as asked", ASKED_LIMIT, async || {
        let (_, known): (String, u16) = sentinel.try_run(&where_it_is).await?;
        if known == port {
            // Refused while one is in progress.
            let _: Option<()> = sentinel.try_run(&fail_over).await;
            return None;
        }
        group.try_master().await.filter(|&now| now != master)
    })
    .await;
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
