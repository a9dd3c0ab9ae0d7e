//! Marks that are answered OK once they are acknowledged.

use std::time::Duration;

use markread_harness::{Redis, eventually};

mod fsync;
mod replicas;

/// Longer than a replica takes to follow.
const LIMIT: Duration = Duration::from_secs(15);

/// Starts a replica, and waits until it is in sync.
async fn replica_of(primary: &Redis, mut replica: Redis) -> Redis {
    replica.restart().await;
    replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port)).await;
    eventually("the replica is in sync", LIMIT, async || {
        let info: String = primary.run("INFO replication").await;
        info.contains("state=online").then_some(())
    })
    .await;
    replica
}
