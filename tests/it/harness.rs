//! The harness itself: which binary it runs, what it checks of every payload, and groups of servers.

use std::path::Path;

use markread_harness::cluster::slot_of;
use markread_harness::schema::problem;
use markread_harness::{RedisCluster, Sentinels, binary};

#[test]
fn the_harness_runs_the_binary_of_this_build() {
    assert_eq!(binary::path(), Path::new(env!("CARGO_BIN_EXE_markread")));
}

#[test]
fn the_schema_accepts_only_what_is_promised() {
    let good = r#"{"direct_message_mark_read_events":[{"created_timestamp":"1","sender_id":"7","last_read_event_id":"9","target":{"recipient_id":"8"}}],"users":{"7":{"id":"7"},"8":{"name":"x"}}}"#;
    assert_eq!(problem(good), None);
    for (from, to) in [
        (r#""sender_id":"7""#, r#""sender_id":7"#),
        (r#""sender_id":"7""#, r#""sender_id":"07""#),
        (r#""sender_id":"7","#, ""),
        (r#""target":{"#, r#""more":1,"target":{"#),
        (r#"{"name":"x"}"#, "[]"),
        (r#"{"7":{"id":"7"},"8":{"name":"x"}}"#, "{}"),
        (r#"}],"users""#, r#"},{}],"users""#),
        (r#"{"direct"#, r#"{"for_user_id":"7","direct"#),
        ("}}}", "}}"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(problem(&good.replace(from, to)).is_some(), "{from} to {to}");
    }
}

#[tokio::test]
async fn a_cluster_moves_slots_and_fails_over() {
    let mut cluster = RedisCluster::start(3, 1).await;
    assert_eq!(cluster.owners().await, [0, 1, 2]);
    let slot = slot_of("{7}a");
    let from = cluster.owner(slot).await;
    for key in ["{7}a", "{7}b"] {
        cluster.run_on_key::<()>(key, &format!("SET {key} 1")).await;
    }
    let to = (from + 1) % 3;
    assert_eq!(cluster.move_slot(slot, to).await, 2);
    assert_eq!(cluster.run_on_key::<u32>("{7}a", "GET {7}a").await, 1);
    assert_eq!(cluster.node(from).try_run::<u32>("GET {7}a").await, None, "it is MOVED");

    cluster.run_on_key::<u32>("{7}b", "EXISTS {7}b").await;
    let replica = to + 3;
    cluster.node_mut(to).kill().await;
    assert_eq!(cluster.wait_for_promotion(slot, to).await, replica);
    assert_eq!(cluster.run_on_key::<u32>("{7}b", "GET {7}b").await, 1);
    cluster.node_mut(to).restart().await;
    cluster.wait_until_whole().await;
}

#[tokio::test]
async fn sentinels_promote_a_replica() {
    let mut group = Sentinels::start(1).await;
    let lost = group.kill_master().await;
    assert_eq!((lost, group.wait_for_failover(lost).await), (0, 1));
    group.node_mut(lost).restart().await;
    group.wait_until_whole().await;
}
