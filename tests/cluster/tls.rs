//! A cluster over TLS.

use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::cluster::{slot_of, tags};
use markread_harness::{RedisCluster, Server, eventually};

use crate::{PARTITIONS, one_reader_each};

const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// In which partitions are served again, once a replica is promoted.
const RECOVERY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_over_tls_is_served_before_and_after_a_failover() {
    let ca = Authority::new().await;
    let certificate = ca.issue("redis", "IP:127.0.0.1,DNS:localhost").await;
    let mut cluster = RedisCluster::over_tls(3, 1, &certificate, &ca).await;
    let server = Server::on_cluster(&cluster, &["--redis-ca", &ca.file()]).await;
    let readers = one_reader_each();
    for &reader in &readers {
        server.caller(reader).mark(7, MESSAGE).await.unwrap();
    }
    let slot = slot_of(&tags(PARTITIONS)[0]);
    let lost = cluster.owner(slot).await;
    cluster.node_mut(lost).kill().await;
    cluster.wait_for_promotion(slot, lost).await;
    for &reader in &readers {
        let caller = server.caller(reader);
        eventually("a partition is served again", RECOVERY, async || {
            caller.mark(7, MESSAGE + 1).await.ok()
        })
        .await;
    }
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused() {
    let (ca, other) = (Authority::new().await, Authority::new().await);
    let certificate = ca.issue("redis", "IP:127.0.0.1").await;
    let cluster = RedisCluster::over_tls(3, 0, &certificate, &ca).await;
    let server = Server::on_cluster_unready(&cluster, &["--redis-ca", &other.file()]).await;
    eventually("the certificate is named", RECOVERY, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503 && page.to_lowercase().contains("certificate")).then_some(())
    })
    .await;
}
