//! Failovers of a master that Sentinels watch, under load.

use std::time::{Duration, Instant};

use markread_harness::redis::default_server;
use markread_harness::sentinels::MASTER_NAME;
use markread_harness::{MESSAGE, READER, RECIPIENT, Sentinels, Server, eventually};
use tokio::time::{sleep, timeout};

use super::load::{Load, RECOVERY, UNLIMITED};
use crate::answers::assert_store_unavailable;

/// How long the master runs before the next kill.
const BETWEEN: Duration = Duration::from_millis(1200);

/// Sentinel takes 8 s until it makes a former master a replica. Here it is told.
async fn make_replica(group: &Sentinels, lost: usize, master: usize) {
    let port = group.node(master).port;
    group.node(lost).run::<()>(&format!("REPLICAOF 127.0.0.1 {port}")).await;
    group.wait_until_whole().await;
    // Until its first acknowledgement, within a second, WAIT does not count it.
    eventually("the replica acknowledges", RECOVERY, async || {
        let replication: String = group.node(master).run("INFO replication").await;
        replication.contains("state=online").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_replica_acknowledged_is_lost_or_doubled_by_five_failovers() {
    const KILLS: usize = 5;
    // A master that a busy machine holds up for less is not replaced without being killed.
    let patient = format!("sentinel down-after-milliseconds {MASTER_NAME} 1500");
    let mut group = Sentinels::with(default_server(), 1, &[], &[&patient]).await;
    let flags = [&UNLIMITED[..], &["--replicas-ack", "1"]].concat();
    let server = Server::on_sentinels(&group, &flags).await;
    let load = Load::on(&server).await;
    let mut up = Vec::new();
    let mut returned = Instant::now();
    for _ in 0..KILLS {
        sleep(BETWEEN).await;
        up.push((returned, Instant::now()));
        let lost = group.kill_master().await;
        let master = group.wait_for_failover(lost).await;
        group.node_mut(lost).restart().await;
        make_replica(&group, lost, master).await;
        returned = Instant::now();
    }
    sleep(RECOVERY).await;
    assert_eq!(server.get("/readyz").await.0, 200);
    sleep(BETWEEN).await;
    let calls = load.stop().await;
    for (from, to) in up {
        calls.assert_served_between(from, to);
    }
    calls.assert_some_refused();
    calls.assert_truthful();
    calls.assert_recovered(returned);
    let master = group.master().await;
    calls.assert_kept_by(group.node(master)).await;
}

/// Only what the replica had not received is lost: what was answered at the moment of the kill.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "how many were lost differs from run to run")]
async fn a_killed_master_is_replaced_within_5_s_of_the_promotion() {
    let mut group = Sentinels::start(1).await;
    let server = Server::on_sentinels(&group, &UNLIMITED).await;
    let load = Load::on(&server).await;
    sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    let lost = group.kill_master().await;
    let master = group.wait_for_failover(lost).await;
    let promoted = Instant::now();
    sleep(Duration::from_secs(5)).await;
    let calls = load.stop().await;
    let lost = calls.lost_by(group.node(master)).await;
    // How long before the kill each was answered.
    let ended: Vec<_> = lost.iter().map(|ended| killed.saturating_duration_since(*ended)).collect();
    println!("{} acknowledged marks were lost before replication: {ended:?}", lost.len());
    assert!(ended.iter().all(|before| *before < Duration::from_millis(100)), "{ended:?}");
    assert!(lost.iter().all(|ended| *ended < promoted), "{ended:?}");
    calls.assert_recovered(promoted);
}

/// The old master runs on, and is demoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_is_asked_for_interrupts_calls_for_a_moment() {
    let group = Sentinels::start(1).await;
    let flags = [&UNLIMITED[..], &["--replicas-ack", "1"]].concat();
    let server = Server::on_sentinels(&group, &flags).await;
    let load = Load::on(&server).await;
    sleep(Duration::from_secs(1)).await;
    let old = group.master().await;
    group.sentinel(0).run::<()>(&format!("SENTINEL FAILOVER {MASTER_NAME}")).await;
    let master = group.wait_for_failover(old).await;
    make_replica(&group, old, master).await;
    let returned = Instant::now();
    sleep(RECOVERY).await;
    let calls = load.stop().await;
    calls.assert_truthful();
    calls.assert_recovered(returned);
    calls.assert_kept_by(group.node(master)).await;
    let log = server.log().join("\n");
    assert!(log.contains("Sentinel says that the master"), "{log}");
}

#[tokio::test]
async fn a_mark_that_a_demoted_master_refuses_is_sent_again_within_its_deadline() {
    let group = Sentinels::start(1).await;
    let server = Server::on_sentinels(&group, &[]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let master = group.master().await;
    let master = group.node(master);
    let demote = "REPLICAOF 127.0.0.1 1";
    let mark = || {
        let caller = caller.clone();
        let call = async move { (caller.mark(RECIPIENT, MESSAGE + 1).await, Instant::now()) };
        tokio::spawn(call)
    };
    master.run::<()>(demote).await;
    let call = mark();
    sleep(Duration::from_millis(400)).await;
    assert!(!call.is_finished());
    master.run::<()>("REPLICAOF NO ONE").await;
    let (answer, _) = timeout(Duration::from_secs(2), call).await.unwrap().unwrap();
    assert!(answer.unwrap().advanced);
    let event = |message| (READER, RECIPIENT, message);
    assert_eq!(master.events().await, [event(MESSAGE), event(MESSAGE + 1)]);
    assert_eq!(master.used(READER).await, Some(2));

    // If no other master is found, it ends with the caller's time.
    server.wait_until_ready().await;
    master.run::<()>(demote).await;
    let began = Instant::now();
    let (answer, ended) = mark().await.unwrap();
    assert_store_unavailable(&answer.unwrap_err());
    let took = ended - began;
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    master.run::<()>("REPLICAOF NO ONE").await;
}

#[tokio::test]
async fn a_frozen_master_is_left_as_soon_as_another_is_announced() {
    let group = Sentinels::start(1).await;
    let server = Server::on_sentinels(&group, &[]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    // Its replica receives it.
    sleep(Duration::from_millis(200)).await;
    let old = group.master().await;
    group.node(old).freeze();
    let master = group.wait_for_failover(old).await;
    // Long before the frozen connections would be found hanging one by one, but a busy machine takes its time.
    eventually("marks are served", 3 * RECOVERY, async || {
        caller.mark(RECIPIENT, MESSAGE + 1).await.ok()
    })
    .await;
    group.node(old).thaw();
    caller.mark(RECIPIENT, MESSAGE + 2).await.unwrap();
    let events = (MESSAGE..MESSAGE + 3).map(|message| (READER, RECIPIENT, message));
    assert_eq!(group.node(master).events().await, events.collect::<Vec<_>>());
}
