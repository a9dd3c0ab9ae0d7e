//! Who is one of the cluster: nodes that left it, or took over an address, are not believed and not used.

use std::time::Duration;

use markread_harness::cluster::tags;
use markread_harness::redis::default_server;
use markread_harness::{Redis, RedisCluster, Server, eventually, free_port};

use crate::{PARTITIONS, one_reader_each};

const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// In which a server notices what happens in the cluster.
const NOTICED: Duration = Duration::from_secs(20);

/// The setting that lets a cluster serve the slots that it has.
const PARTIAL: [&str; 2] = ["--cluster-require-full-coverage", "no"];

async fn mark_all(server: &Server, readers: &[u64], message: u64) -> usize {
    let mut marked = 0;
    for &reader in readers {
        marked += usize::from(server.caller(reader).mark(7, message).await.is_ok());
    }
    marked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_at_a_known_address_is_not_used() {
    let mut cluster = RedisCluster::with(3, 0, &PARTIAL).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let readers = one_reader_each();
    assert_eq!(mark_all(&server, &readers, MESSAGE).await, readers.len());
    let port = cluster.node(1).port;
    cluster.node_mut(1).kill().await;
    // It has all slots, of a later epoch.
    let bus = free_port().to_string();
    let mut other = Redis::down(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    other.port = port;
    other.restart().await;
    other.run::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
    other.run::<()>("CLUSTER SET-CONFIG-EPOCH 100").await;
    eventually("the page names it", NOTICED, async || {
        let (_, page) = server.get("/readyz").await;
        page.contains("another node").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let marked = mark_all(&server, &readers, MESSAGE + 1).await;
    assert!(marked > 0 && marked < readers.len(), "{marked} of {}", readers.len());
    let keys: Vec<String> = other.run("KEYS *").await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_removed_does_not_take_the_others_along() {
    // The third has no slots, and is forgotten.
    let cluster = RedisCluster::apart(default_server(), 3, 0, &PARTIAL).await;
    cluster.add_slots(0, 0..=8191).await;
    cluster.add_slots(1, 8192..=16_383).await;
    cluster.meet().await;
    let server = Server::on_cluster_unready(&cluster, &[]).await;
    server.wait_until_ready().await;
    let readers = one_reader_each();
    eventually("all partitions are served", NOTICED, async || {
        (mark_all(&server, &readers, MESSAGE).await == readers.len()).then_some(())
    })
    .await;
    for node in 0..2 {
        cluster.node(node).run::<()>(&format!("CLUSTER FORGET {}", cluster.id(2))).await;
    }
    cluster.node(2).run::<()>("CLUSTER RESET SOFT").await;
    for node in 0..2 {
        cluster.node(node).run::<u64>("CLIENT KILL TYPE normal").await;
    }
    eventually("they are served again", NOTICED, async || {
        (mark_all(&server, &readers, MESSAGE + 1).await == readers.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_of_a_later_version_ends_the_start() {
    let cluster = RedisCluster::start(3, 0).await;
    for tag in tags(PARTITIONS) {
        let key = format!("markread:{{{tag}}}:layout");
        let write = format!("HSET {key} version 9 partitions {PARTITIONS}");
        cluster.run_on_key::<u64>(&key, &write).await;
    }
    let mut server = Server::on_cluster_unready(&cluster, &[]).await;
    assert_eq!(server.exit(NOTICED).await.code(), Some(2), "{:?}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_while_the_node_with_the_number_of_partitions_is_away() {
    // Its slot, 12253, is the third master's.
    let cluster = RedisCluster::with(3, 0, &PARTIAL).await;
    drop(Server::on_cluster(&cluster, &[]).await);
    cluster.node(2).freeze();
    let server = Server::on_cluster_unready(&cluster, &[]).await;
    server.wait_until_ready().await;
    let (_, page) = server.get("/readyz").await;
    assert!(page.contains("partitions 43-63 are not served"), "{page}");
    cluster.node(2).thaw();
    eventually("all partitions are served", NOTICED, async || {
        let (_, page) = server.get("/readyz").await;
        (!page.contains("partitions")).then_some(())
    })
    .await;
}
