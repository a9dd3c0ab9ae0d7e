//! A node that hangs or is gone: the partitions of the others are served.

use std::time::{Duration, Instant};

use markread_harness::caller::Caller;
use markread_harness::cluster::{slot_of, tags};
use markread_harness::{RedisCluster, Server, eventually};
use tonic::Code;

use crate::{PARTITIONS, one_reader_each};

const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// What a busy machine may take for a call to a node that is well.
const CALL: Duration = Duration::from_secs(1);

/// The call timeout, and what a busy machine adds.
const CALL_TIMEOUT: Duration = Duration::from_millis(3500);

/// Longer than probes and reconnections take.
const NOTICED: Duration = Duration::from_secs(20);

/// A caller in each partition, and whether the partition is on this node.
fn callers(cluster: &RedisCluster, server: &Server, node: usize) -> Vec<(Caller, bool)> {
    let slots = tags(PARTITIONS).into_iter().map(|tag| slot_of(&tag));
    let callers = one_reader_each().into_iter().map(|reader| server.caller(reader));
    callers.zip(slots).map(|(caller, slot)| (caller, cluster.share(node).contains(&slot))).collect()
}

/// Marks once in each partition: all are served but those of the node that is away.
async fn assert_served_elsewhere(callers: &[(Caller, bool)], message: u64) {
    for (caller, is_away) in callers {
        let began = Instant::now();
        let answer = caller.mark(7, message).await;
        if *is_away {
            let refusal = answer.unwrap_err();
            assert_eq!((refusal.code, &*refusal.reason), (Code::Unavailable, "STORE_UNAVAILABLE"));
            assert!(began.elapsed() < CALL_TIMEOUT, "{:?}", began.elapsed());
        } else {
            assert!(answer.unwrap().advanced);
            assert!(began.elapsed() < CALL, "{:?}", began.elapsed());
        }
    }
}

/// `/readyz` and the log name partitions that are not served, and health is that of the others.
async fn assert_named(server: &Server) {
    let page = eventually("the page names partitions", NOTICED, async || {
        let (_, page) = server.get("/readyz").await;
        page.contains("partition").then_some(page)
    })
    .await;
    println!("/readyz: {page}");
    assert!(server.is_serving().await, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_stops_its_own_partitions_only() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let callers = callers(&cluster, &server, 1);
    for (caller, _) in &callers {
        caller.mark(7, MESSAGE).await.unwrap();
    }
    cluster.node(1).freeze();
    assert_served_elsewhere(&callers, MESSAGE + 1).await;
    assert_named(&server).await;
    assert_served_elsewhere(&callers, MESSAGE + 2).await;

    cluster.node(1).thaw();
    served_everywhere(&callers, MESSAGE + 3).await;
    eventually("no partition is named any more", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 200 && !page.contains("partition")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_stops_its_own_partitions_only_until_it_is_back() {
    let mut cluster = RedisCluster::with(3, 0, &["--appendonly", "yes"]).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let callers = callers(&cluster, &server, 2);
    for (caller, _) in &callers {
        caller.mark(7, MESSAGE).await.unwrap();
    }
    cluster.node_mut(2).kill().await;
    assert_served_elsewhere(&callers, MESSAGE + 1).await;
    assert_named(&server).await;
    cluster.node_mut(2).restart().await;
    served_everywhere(&callers, MESSAGE + 2).await;
}

async fn served_everywhere(callers: &[(Caller, bool)], message: u64) {
    for (caller, _) in callers {
        eventually("a partition is served again", NOTICED, async || {
            caller.mark(7, message).await.ok()
        })
        .await;
    }
}
