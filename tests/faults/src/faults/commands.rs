//! Commands that an operator, a script or a mistake sends to a Redis.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::guards::Setting;
use super::{NotRun, Reach, choose, duration};
use crate::world::World;

/// The pause between two commands that close connections.
const KILL_INTERVAL: Duration = Duration::from_millis(60);

/// Each master forgets its scripts, several times.
pub(super) async fn script_flush(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    for _ in 0..random.random_range(3..=10) {
        for master in world.masters().await {
            master.run::<()>("SCRIPT FLUSH").await;
        }
        sleep(duration(random, 5..=200)).await;
    }
    Ok(None)
}

/// A master closes the connections of its clients, several times.
pub(super) async fn client_kill(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let master = world.node(world.a_master(random).await);
    for _ in 0..random.random_range(3..=10) {
        master.run::<u64>("CLIENT KILL TYPE normal").await;
        sleep(KILL_INTERVAL).await;
    }
    Ok(None)
}

/// A master leaves writes or everything unanswered.
pub(super) async fn client_pause(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let node = world.a_master(random).await;
    let partitions = world.partitions_of(node).await;
    let pause = duration(random, 500..=1500);
    let what = choose(random, &["WRITE", "ALL"]);
    let command = format!("CLIENT PAUSE {} {what}", pause.as_millis());
    world.node(node).run::<()>(&command).await;
    // Redis ends it by itself.
    sleep(pause).await;
    Ok(partitions)
}

/// A master is busy with one command.
pub(super) async fn debug_sleep(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let node = world.a_master(random).await;
    let partitions = world.partitions_of(node).await;
    let time = duration(random, 500..=1500).as_secs_f64();
    world.node(node).run::<()>(&format!("DEBUG SLEEP {time}")).await;
    Ok(partitions)
}

/// A master has no memory for more data.
pub(super) async fn maxmemory(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let master = world.node(world.a_master(random).await);
    let _policy = Setting::new(master, "maxmemory-policy", "noeviction");
    // Less than an empty Redis has.
    let _limit = Setting::new(master, "maxmemory", "1");
    sleep(duration(random, 1000..=2000)).await;
    Ok(None)
}

/// All masters lose everything.
pub(super) async fn flushall(world: &mut World) -> Result<Reach, NotRun> {
    for master in world.masters().await {
        master.run::<()>("FLUSHALL").await;
    }
    Ok(None)
}
