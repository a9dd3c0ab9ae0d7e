//! Clusters that a server cannot serve, and what it says of them.

use std::time::Duration;

use markread_harness::cluster::{partition_of, tags};
use markread_harness::redis::default_server;
use markread_harness::{Redis, RedisCluster, Server, eventually};
use tonic::Code;

use crate::{PARTITIONS, one_reader_each};

const MESSAGE: u64 = 8_754_578_330_382_663_743;
const CLUSTER_MODE: [&str; 2] = ["--redis-mode", "cluster"];

/// Longer than probes and reconnections take.
const NOTICED: Duration = Duration::from_secs(20);

/// Waits until `/readyz` is 503 with one of these texts, and returns the page.
async fn not_ready(server: &Server, texts: &[&str]) -> String {
    eventually(&format!("the page says {texts:?}"), NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        let names = texts.iter().any(|text| page.to_lowercase().contains(&text.to_lowercase()));
        (status == 503 && names).then_some(page)
    })
    .await
}

/// Waits until the server has ended with status 2, and returns its last line.
async fn refused(mut server: Server) -> String {
    assert_eq!(server.exit(NOTICED).await.code(), Some(2), "{:?}", server.log());
    let named = async || server.log().iter().find(|line| line.contains("layout version")).cloned();
    eventually("the layout is named", NOTICED, named).await
}

#[tokio::test]
async fn a_cluster_in_standalone_mode_and_the_reverse_are_named() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::at(&cluster.node(0).url(), &[], &[]).await;
    not_ready(&server, &["cluster mode"]).await;

    let redis = Redis::start().await;
    let server = Server::at(&redis.url(), &CLUSTER_MODE, &[]).await;
    not_ready(&server, &["not in cluster mode", "cluster support disabled", "cluster-enabled"])
        .await;
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0], "nothing is written there");
}

#[tokio::test]
async fn a_replica_serves_as_a_seed_and_not_alone() {
    let cluster = RedisCluster::start(3, 1).await;
    let server = Server::at(&cluster.node(4).url(), &CLUSTER_MODE, &[]).await;
    server.wait_until_ready().await;
    for reader in one_reader_each() {
        server.caller(reader).mark(7, MESSAGE).await.unwrap();
    }
    let primary = Redis::start().await;
    let of_primary = format!("127.0.0.1 {}", primary.port);
    let replica = Redis::with(&["--replicaof", &of_primary]).await;
    let server = Server::at(&replica.url(), &[], &[]).await;
    not_ready(&server, &["READONLY", "replica"]).await;
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let cluster = RedisCluster::start(3, 0).await;
    for node in cluster.nodes() {
        node.run::<()>("ACL SETUSER markread on >right ~* &* +@all").await;
    }
    let url = cluster.url().replace("redis://", "redis://markread:wrong@");
    let server = Server::at(&url, &CLUSTER_MODE, &[]).await;
    let page = not_ready(&server, &["WRONGPASS", "password"]).await;
    assert!(!page.contains("wrong@"), "{page}");
}

#[tokio::test]
async fn seeds_of_two_clusters_are_refused() {
    let (one, other) = (RedisCluster::start(3, 0).await, RedisCluster::start(3, 0).await);
    let seeds = format!("{},{}", one.url(), other.url());
    let server = Server::at(&seeds, &CLUSTER_MODE, &[]).await;
    not_ready(&server, &["clusters"]).await;
    for cluster in [one, other] {
        assert!(cluster.keys("markread:*").await.is_empty(), "nothing is written there");
    }
}

#[tokio::test]
async fn slots_that_nobody_has_are_named() {
    let cluster = RedisCluster::apart(default_server(), 3, 0, &[]).await;
    for master in 1..3 {
        cluster.add_slots(master, cluster.share(master)).await;
    }
    cluster.meet().await;
    let server = Server::at(&cluster.url(), &CLUSTER_MODE, &[]).await;
    server.wait_until_ready().await;
    let page = eventually("the page names partitions", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        let names = page.contains("partitions 0-20 are not served: no node of the cluster has");
        (status == 200 && names).then_some(page)
    })
    .await;
    println!("/readyz: {page}");
    assert!(server.is_serving().await, "the others are served");
    cluster.add_slots(0, cluster.share(0)).await;
    eventually("all partitions are served", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 200 && !page.contains("not served")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_number_of_partitions_is_refused_with_both_numbers() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &["--partitions", "64"]).await;
    server.caller(7).mark(8, MESSAGE).await.unwrap();
    let other = Server::on_cluster_unready(&cluster, &["--partitions", "32"]).await;
    let line = refused(other).await;
    assert!(line.contains("64") && line.contains("32"), "{line}");
    let own: Vec<_> =
        tags(PARTITIONS).iter().map(|tag| format!("markread:{{{tag}}}:layout")).collect();
    for (_, layout) in cluster.keys("markread:{*}:layout").await {
        assert!(own.contains(&layout), "{layout} is written in the other number");
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_fails_its_readers_calls_alone() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let readers = one_reader_each();
    let (broken, rest) = (readers[5], &readers[..]);
    let neighbour = (0..u64::MAX).map(crate::reader).find(|&reader| {
        reader != broken && partition_of(reader, PARTITIONS) == partition_of(broken, PARTITIONS)
    });
    let tag = &tags(PARTITIONS)[partition_of(broken, PARTITIONS)];
    let key = format!("markread:{{{tag}}}:cursors:{broken}");
    cluster.run_on_key::<()>(&key, &format!("SET {key} x")).await;
    for reader in rest.iter().copied().chain(neighbour) {
        let answer = server.caller(reader).mark(9, MESSAGE).await;
        let state = server.caller(reader).state(9).await;
        if reader == broken {
            assert_eq!(answer.unwrap_err().code, Code::Internal);
            assert_eq!(state.unwrap_err().code, Code::Internal);
        } else {
            assert!(answer.unwrap().advanced);
            state.unwrap();
        }
    }
}
