//! All connections of clients are cut, again and again.

use std::time::{Duration, Instant};

use markread_harness::{RedisCluster, Server};
use tokio::time::{interval, sleep};

use crate::accounts::Accounts;
use crate::crowd::Crowd;
use crate::one_reader_each;

const KILL_EVERY: Duration = Duration::from_millis(60);
const KILLING: Duration = Duration::from_secs(10);

/// In which every partition is served again.
const RECOVERY: Duration = Duration::from_secs(1);

/// A recipient and a message of this test alone.
const PROBE: (u64, u64) = (77, 8_754_578_330_382_663_743);

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_back_within_a_second_and_nothing_is_doubled() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let probes: Vec<_> =
        one_reader_each().into_iter().map(|reader| server.caller(reader)).collect();
    for probe in &probes {
        probe.mark(PROBE.0, PROBE.1).await.unwrap();
    }
    let crowd = Crowd::on(&server, 640, 20);
    crowd.wait_for(500).await;

    let mut connections = Vec::new();
    for node in cluster.nodes() {
        connections.push(node.connection().await);
    }
    let (began, mut ticks, mut killed) = (Instant::now(), interval(KILL_EVERY), 0);
    while began.elapsed() < KILLING {
        ticks.tick().await;
        for connection in &mut connections {
            // All but this one.
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal");
            killed += kill.query_async::<usize>(connection).await.unwrap();
        }
    }
    let ended = Instant::now();
    sleep(RECOVERY).await;
    for probe in &probes {
        probe.mark(PROBE.0, PROBE.1 + 1).await.expect("every partition is served again");
    }
    let during = crowd.marked();
    let calls = crowd.done().await;
    let again = calls.served_again(ended, |_| true);
    let accounts = Accounts::of(&cluster).await;
    let kept = calls.kept(&accounts, |_| true);
    println!(
        "{killed} connections killed; {} marks acknowledged, {during} until a second after it; {} refused; \
         all partitions marked again {again:?} after its end; {} conversations kept, {} lost; {} events",
        calls.acknowledged(),
        calls.refused(|_| true),
        kept.kept,
        kept.lost,
        accounts.events.len(),
    );
    assert!(killed > 100, "{killed}");
    assert_eq!(kept.lost, 0);
    accounts.assert_published_once();
    assert_eq!(accounts.events.len(), calls.events(|_| true) + 2 * probes.len());
    assert_eq!(server.get("/readyz").await.0, 200);
}
