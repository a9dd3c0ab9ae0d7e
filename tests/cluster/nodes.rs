//! The clusters themselves, as the other tests rely on them.

use markread_harness::RedisCluster;

#[tokio::test]
async fn valkey_9_moves_slots_at_once() {
    let server = std::env::var_os("MARKREAD_TEST_VALKEY9").expect("tests/run all installs it");
    let cluster = RedisCluster::of_server(server, 3, 1, &[]).await;
    let key = "{7}a";
    let slot = markread_harness::cluster::slot_of(key);
    cluster.run_on_key::<()>(key, "SET {7}a 1").await;
    let to = (cluster.owner(slot).await + 1) % 3;
    cluster.migrate_slots(slot..=slot, to).await;
    assert_eq!(cluster.owner(slot).await, to);
    assert_eq!(cluster.run_on_key::<u32>(key, "GET {7}a").await, 1);
}
