//! How evenly readers spread over masters.

use std::sync::Arc;

use markread_harness::{RedisCluster, Server};
use tokio::task::JoinSet;

use crate::reader;

const READERS: u64 = 6_000;
const TASKS: u64 = 32;

/// The largest share of a master over the smallest one, at most.
const RATIO: f64 = 1.15;

#[tokio::test(flavor = "multi_thread")]
async fn three_and_six_masters_have_even_shares() {
    for masters in [3, 6] {
        let cluster = RedisCluster::start(masters, 0).await;
        let server = Arc::new(Server::on_cluster(&cluster, &[]).await);
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let server = Arc::clone(&server);
            tasks.spawn(async move {
                for number in (task..READERS).step_by(usize::try_from(TASKS).unwrap()) {
                    server.caller(reader(number)).mark(7, 9).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        for keys in ["markread:{*}:cursors:*", "markread:{*}:layout"] {
            let mut shares = vec![0_u32; masters];
            for (owner, _) in cluster.keys(keys).await {
                shares[owner] += 1;
            }
            let (most, least) = (*shares.iter().max().unwrap(), *shares.iter().min().unwrap());
            let ratio = f64::from(most) / f64::from(least);
            println!("{masters} masters: {shares:?} of {keys}, ratio {ratio:.3}");
            assert!(ratio <= RATIO, "{shares:?} of {keys}");
        }
    }
}
