//! All three modes of Redis: events arrive, and go on arriving after a failover and a slot's move.

use std::time::Duration;

use markread_harness::cluster::{partition_of, slot_of, tags};
use markread_harness::{Receiver, RedisCluster, Relay, Sentinels, Server, WebhookFile, eventually};

use super::{ALL, SOON};

const FAILOVER: Duration = Duration::from_secs(60);

/// Marks until it is served.
async fn mark(server: &Server, reader: u64, message: u64) {
    eventually("a mark is served", FAILOVER, async || {
        server.caller(reader).mark(9, message).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_relay_follows_the_master_that_sentinels_name() {
    let mut group = Sentinels::start(1).await;
    let server = Server::on_sentinels(&group, &[]).await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on_sentinels(&group, &file, &[]).await;
    mark(&server, 1, 1).await;
    receiver.wait_for(1, SOON).await;
    let lost = group.kill_master().await;
    group.wait_for_failover(lost).await;
    mark(&server, 1, 2).await;
    eventually("the second event arrives", FAILOVER, async || {
        receiver.accepted().iter().any(|arrival| arrival.message == 2).then_some(())
    })
    .await;
    assert_eq!(relay.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_relay_follows_moved_slots_and_promoted_replicas() {
    let mut cluster = RedisCluster::start(3, 1).await;
    let server = Server::on_cluster(&cluster, &["--partitions", "4"]).await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on_cluster(&cluster, &file, &["--partitions", "4"]).await;
    mark(&server, 1, 1).await;
    receiver.wait_for(1, SOON).await;
    let slot = slot_of(&format!("{{{}}}", tags(4)[partition_of(1, 4)]));
    let from = cluster.owner(slot).await;
    let to = cluster.owners().await.into_iter().find(|owner| *owner != from).unwrap();
    cluster.move_slot(slot, to).await;
    mark(&server, 1, 2).await;
    receiver.wait_for(2, SOON).await;

    cluster.node_mut(to).kill().await;
    cluster.wait_for_promotion(slot, to).await;
    mark(&server, 1, 3).await;
    eventually("the third event arrives", FAILOVER, async || {
        receiver.accepted().iter().any(|arrival| arrival.message == 3).then_some(())
    })
    .await;
    eventually("it is ready", FAILOVER, async || {
        (relay.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
}
