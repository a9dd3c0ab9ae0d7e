//! Slots are moved and a master is killed, while 5,000 readers mark 50,000 messages.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use markread_harness::cluster::{partition_of, slot_of, tags};
use markread_harness::{RedisCluster, Server};

use crate::PARTITIONS;
use crate::accounts::Accounts;
use crate::crowd::Crowd;

const READERS: u64 = 5_000;
const MARKS: u64 = 10;

/// The master that is killed: the last of three.
const KILLED: usize = 2;

/// In which partitions are served again, once a replica is promoted.
const RECOVERY: Duration = Duration::from_secs(5);

/// A call's own limit (`--call-timeout`), and what a busy machine adds.
const CALL_LIMIT: Duration = Duration::from_millis(3500);

/// How slots are moved.
#[derive(Clone, Copy)]
enum Moves {
    /// Key by key, as every server can.
    Legacy,
    /// At once, as Valkey 9 can.
    AtOnce,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_but_with_its_node_while_slots_move_and_a_master_is_killed() {
    let cluster = RedisCluster::start(3, 1).await;
    marks_amid_failures(cluster, Moves::Legacy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_with_a_replica_acknowledged_while_slots_move_and_a_master_is_killed() {
    let cluster = RedisCluster::start(3, 1).await;
    marks_amid_failures(cluster, Moves::Legacy, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_9_moves_slots_at_once_amid_marks() {
    let server = std::env::var_os("MARKREAD_TEST_VALKEY9");
    let server = server.expect("MARKREAD_TEST_VALKEY9 names a server: tests/run all installs it");
    let cluster = RedisCluster::of_server(server, 3, 1, &[]).await;
    marks_amid_failures(cluster, Moves::AtOnce, 0).await;
}

async fn marks_amid_failures(mut cluster: RedisCluster, way: Moves, replicas_ack: usize) {
    let tags = tags(PARTITIONS);
    let slot = |partition: usize| slot_of(&tags[partition]);
    let lost: HashSet<_> = (0..tags.len())
        .filter(|&partition| cluster.share(KILLED).contains(&slot(partition)))
        .collect();
    // Two partitions of each master that stays.
    let of_master = |master: usize| {
        let share = cluster.share(master);
        (0..tags.len()).filter(move |&partition| share.contains(&slot(partition))).take(2)
    };
    let moved: Vec<_> = of_master(0).chain(of_master(1)).collect();
    let replicas_ack = replicas_ack.to_string();
    let flags = ["--replicas-ack", &replicas_ack, "--replicas-ack-timeout", "1s"];
    let server = Server::on_cluster(&cluster, &flags).await;

    let crowd = Crowd::on(&server, READERS, MARKS);
    crowd.wait_for(2_000).await;
    for &partition in &moved[..2] {
        move_slot(&cluster, slot(partition), way).await;
    }
    cluster.node_mut(KILLED).kill().await;
    let killed = Instant::now();
    let killed_slot = *cluster.share(KILLED).start();
    let promoted = cluster.wait_for_promotion(killed_slot, KILLED).await;
    let promotion = Instant::now();
    // Where a replica has to acknowledge, only this gives the new master one.
    if replicas_ack != "0" {
        cluster.node_mut(KILLED).restart().await;
    }
    for &partition in &moved[2..] {
        move_slot(&cluster, slot(partition), way).await;
    }
    if replicas_ack == "0" {
        cluster.node_mut(KILLED).restart().await;
    }
    cluster.wait_until_whole().await;
    for &partition in &moved {
        move_slot(&cluster, slot(partition), way).await;
    }
    let calls = crowd.done().await;

    let is_lost = |partition: usize| lost.contains(&partition);
    let is_moved = |partition: usize| moved.contains(&partition);
    let is_other = |partition: usize| !is_lost(partition) && !is_moved(partition);
    let accounts = Accounts::of(&cluster).await;
    let on_lost = calls.kept(&accounts, is_lost);
    let elsewhere = calls.kept(&accounts, |partition| !is_lost(partition));
    let again = calls.served_again(promotion, is_lost);
    println!(
        "{} marks acknowledged, {} events; master {KILLED} killed, {promoted} promoted after {:?}, its \
         {} partitions served {again:?} later; of acknowledged conversations there {} kept, {} lost with \
         the node; elsewhere {} kept, {} lost; refused: {} of the lost node, {} of moved slots, {} others; \
         longest call: {:?}, {:?}, {:?}",
        calls.acknowledged(),
        accounts.events.len(),
        promotion - killed,
        lost.len(),
        on_lost.kept,
        on_lost.lost,
        elsewhere.kept,
        elsewhere.lost,
        calls.refused(is_lost),
        calls.refused(is_moved),
        calls.refused(is_other),
        calls.longest(is_lost),
        calls.longest(is_moved),
        calls.longest(is_other),
    );
    assert_eq!(calls.acknowledged(), usize::try_from(READERS * MARKS).unwrap());
    assert_eq!(elsewhere.lost, 0, "acknowledged marks are lost");
    if replicas_ack != "0" {
        assert_eq!(on_lost.lost, 0, "marks that a replica had are lost");
    }
    accounts.assert_published_once();
    let events = accounts.events.iter();
    let events = events.filter(|(reader, ..)| !is_lost(partition_of(*reader, PARTITIONS)));
    assert_eq!(events.count(), calls.events(|partition| !is_lost(partition)), "one event for each");
    assert_eq!(calls.refused(is_other), 0, "other partitions are served throughout");
    assert!(calls.longest(is_other) < CALL_LIMIT);
    if replicas_ack == "0" {
        assert!(again <= RECOVERY, "{again:?} after the promotion");
    }
}

/// Moves a slot of one of the masters that stay to the other one.
async fn move_slot(cluster: &RedisCluster, slot: u16, way: Moves) {
    let to = usize::from(cluster.owner(slot).await == 0);
    match way {
        Moves::Legacy => {
            cluster.move_slot(slot, to).await;
        }
        Moves::AtOnce => cluster.migrate_slots(slot..=slot, to).await,
    }
}
