//! Each kind of fault has the effect that it is for, and is over when it says so.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and prints what it saw"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use markread_faults::faults::{KINDS, Kind, NotRun, inject};
use markread_faults::world::{Durability, Mode, Options, World};
use markread_harness::caller::{Caller, Credentials};
use markread_harness::cluster::tags;
use markread_harness::{RECIPIENT, Receiver, eventually};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use self::probe::{Probe, Seen, channel, unknown_scripts};

mod probe;

/// The least delay by a slow network, without its jitter.
const SLOW: Duration = Duration::from_millis(25);

/// What a call's bytes take at the least where the network is narrow.
const NARROW: Duration = Duration::from_millis(10);

/// Within which time all servers serve again.
const RECOVERY: Duration = Duration::from_secs(10);

/// The effects of faults that a probe of calls does not see.
struct Marks {
    canaries: usize,
    unknown_scripts: u64,
    /// The process of each partition's master.
    masters: Vec<String>,
    refused_deliveries: usize,
}

/// Keys that only an erasure removes: one in each partition.
fn canaries(world: &World) -> Vec<String> {
    match world.mode() {
        Mode::Cluster => {
            tags(world.partitions).iter().map(|tag| format!("canary:{{{tag}}}")).collect()
        }
        _ => vec!["canary".to_owned()],
    }
}

async fn look(world: &World) -> Marks {
    let (mut masters, mut found) = (Vec::new(), 0);
    for key in canaries(world) {
        let master = world.master_of(&key).await;
        masters
            .push(master.info("INFO server").await.remove("run_id").expect("an ID of the process"));
        found += master.run::<usize>(&format!("EXISTS {key}")).await;
    }
    let mut scripts = 0;
    for master in world.masters().await {
        scripts += unknown_scripts(master).await;
    }
    let arrivals = world.receivers.iter().flat_map(Receiver::arrivals);
    let refused = arrivals.filter(|arrival| !arrival.is_accepted()).count();
    Marks { canaries: found, unknown_scripts: scripts, masters, refused_deliveries: refused }
}

/// What is wrong with the effect of a fault, if anything is.
fn effect(kind: &Kind, seen: &Seen, before: &Marks, after: &Marks) -> Option<String> {
    let is_held_up = |time: Duration| seen.failed > 0 || seen.slowest >= time;
    let all_are_held_up = |time| seen.fastest.values().any(|fastest| *fastest >= time);
    let has_other_masters = after.masters != before.masters;
    let has_effect = match kind.name {
        "server-stopped" | "redis-stopped" | "client-silent" | "store-silent" => {
            is_held_up(Duration::from_millis(900))
        }
        "client-pause" | "debug-sleep" => is_held_up(Duration::from_millis(450)),
        "client-slow" | "store-slow" => all_are_held_up(SLOW),
        "client-narrow" | "store-narrow" => all_are_held_up(NARROW),
        "relay-killed" | "relay-stopped" | "relay-restarted" => seen.dead_relays > 0,
        "receiver-down" => {
            seen.dead_receivers > 0 || after.refused_deliveries > before.refused_deliveries
        }
        "replica-killed" | "replica-stopped" | "sentinel-killed" => seen.dead_redis > 0,
        "script-flush" => after.unknown_scripts > before.unknown_scripts,
        "flushall" => after.canaries == 0,
        "cluster-flush-one" => (1..before.canaries).contains(&after.canaries),
        "sentinel-failover-asked" | "cluster-failover-asked" | "slot-moved" => has_other_masters,
        "sentinel-failover" | "replica-promoted" => seen.failed > 0 && has_other_masters,
        // The probe's marks may all be of the other masters.
        "cluster-master-killed" => seen.dead_redis > 0 && has_other_masters,
        "descriptors-used-up" => {
            seen.failed_fresh > 0 || seen.slowest_fresh >= Duration::from_millis(700)
        }
        "clock-jumps" | "store-clock-jumps" => seen.wrong_clocks > 0,
        _ => seen.failed > 0,
    };
    (!has_effect).then(|| format!("{} has no effect: {seen:?}", kind.name))
}

/// Waits until each server serves a mark.
async fn all_serve(world: &World, message: u64) {
    for address in &world.client_addresses {
        let caller = Caller::new(channel(address), Credentials::token_of(1000));
        eventually("a server serves again", RECOVERY, async || {
            caller.mark(RECIPIENT, message).await.ok()
        })
        .await;
    }
}

/// Injects a kind, and returns what is wrong with it.
async fn try_kind(world: &mut World, kind: &Kind, random: &mut StdRng) -> Option<String> {
    for key in canaries(world) {
        world.master_of(&key).await.run::<()>(&format!("SET {key} 1")).await;
    }
    sleep(Duration::from_millis(100)).await;
    let before = look(world).await;
    let probe = Probe::start(world);
    sleep(Duration::from_millis(100)).await;
    probe.begin_fault();
    let injected = inject(kind, world, random).await;
    sleep(Duration::from_millis(100)).await;
    let seen = probe.end().await;
    let losses = match injected {
        Ok(losses) => losses,
        Err(NotRun(why)) => {
            eprintln!("NOT RUN: {}: {why}", kind.name);
            return None;
        }
    };
    world.wait_until_whole().await;
    all_serve(world, u64::try_from(world.now().as_millis()).unwrap() + 1).await;
    let after = look(world).await;
    eprintln!("{:8.1} {}: {seen:?}, losses: {losses:?}", world.now().as_secs_f64(), kind.name);
    effect(kind, &seen, &before, &after)
}

/// Tries all kinds of a mode that were not tried in another one.
async fn try_kinds(mode: Mode, durability: Durability, but: &[Mode]) {
    let binary = std::env::current_exe().unwrap();
    let binary = binary.parent().unwrap().with_file_name("markread");
    let mut world = World::start(&Options { mode, durability, binary }).await;
    let mut random = StdRng::seed_from_u64(1);
    let is_tried = |kind: &&Kind| {
        kind.modes.contains(&mode) && !but.iter().any(|other| kind.modes.contains(other))
    };
    let mut problems = BTreeSet::new();
    for kind in KINDS.iter().filter(is_tried) {
        problems.extend(try_kind(&mut world, kind, &mut random).await);
    }
    world.end().await;
    assert!(problems.is_empty(), "{problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_has_its_effect_on_one_redis_and_ends() {
    try_kinds(Mode::Standalone, Durability::Always, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_has_its_effect_on_a_group_with_sentinels_and_ends() {
    try_kinds(Mode::Sentinel, Durability::AlwaysReplica, &[Mode::Standalone]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_has_its_effect_on_a_cluster_and_ends() {
    try_kinds(Mode::Cluster, Durability::AlwaysReplica, &[Mode::Standalone, Mode::Sentinel]).await;
}
