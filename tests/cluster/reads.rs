//! Reads and batches across partitions.

use std::collections::{BTreeMap, BTreeSet};

use markread_harness::caller::Caller;
use markread_harness::{RedisCluster, Server};

use crate::one_reader_each;

const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// Lists all cursors of a caller in pages of this size.
async fn list(caller: &Caller, page_size: i32) -> BTreeMap<u64, u64> {
    let (mut cursors, mut token) = (BTreeMap::new(), String::new());
    loop {
        let page = caller.page(page_size, &token).await.unwrap().into_inner();
        for cursor in page.cursors {
            let other = cursors.insert(cursor.recipient_id, cursor.last_read_event_id);
            assert_eq!(other, None, "a cursor is listed once");
        }
        token = page.next_page_token;
        if token.is_empty() {
            return cursors;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_batches_and_lists_see_all_partitions() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let users = one_reader_each();
    let (me, others) = (users[0], &users[1..]);
    let caller = server.caller(me);
    // What I have read of each, and each has read of me.
    let marks: Vec<_> = (0..).zip(others).map(|(n, &other)| (other, MESSAGE + n)).collect();
    let results = caller.mark_batch(&marks).await.unwrap().into_inner().results;
    assert_eq!(results.len(), marks.len());
    for &(other, message) in &marks {
        server.caller(other).mark(me, message + 1_000).await.unwrap();
    }
    let states = caller.states(&users).await.unwrap().into_inner().states;
    let found: Vec<_> = states.iter().map(|state| state.recipient_id).collect();
    assert_eq!(found, users, "in order");
    assert_eq!((&states[0].mine, &states[0].theirs), (&None, &None));
    for (state, (other, message)) in states[1..].iter().zip(&marks) {
        let single = caller.state(*other).await.unwrap().into_inner().state.unwrap();
        assert_eq!(single, *state);
        assert_eq!(state.mine.as_ref().unwrap().last_read_event_id, *message);
        assert_eq!(state.theirs.as_ref().unwrap().last_read_event_id, message + 1_000);
        assert_eq!(state.theirs.as_ref().unwrap().recipient_id, me);
    }

    // Enough for buckets, which are in the partition of their reader too.
    let many: Vec<_> = (1..=400).map(|to| (to, MESSAGE)).collect();
    caller.mark_batch(&many).await.unwrap();
    let expected: BTreeMap<_, _> = many.iter().chain(&marks).copied().collect();
    assert_eq!(list(&caller, 100).await, expected);
    let keys: BTreeSet<_> = cluster
        .keys(&format!("markread:{{*}}:cursors:{me}*"))
        .await
        .into_iter()
        .map(|(owner, _)| owner)
        .collect();
    assert_eq!(keys.len(), 1, "a reader is on one master");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_objects_are_read_wherever_they_are() {
    let cluster = RedisCluster::start(3, 0).await;
    let users = one_reader_each();
    for user in &users {
        let key = format!("user:{user}");
        let object = format!(r#"{{"id":"{user}","name":"n"}}"#);
        cluster.run_on_key::<()>(&key, &format!("SET {key} {object}")).await;
    }
    let server = Server::on_cluster(&cluster, &[]).await;
    for pair in users.windows(2) {
        server.caller(pair[0]).mark(pair[1], MESSAGE).await.unwrap();
    }
    let mut with_objects = 0;
    for (owner, stream) in cluster.keys("direct_message_mark_read_events:{*}").await {
        let range = format!("XRANGE {stream} - +");
        let entries: Vec<(String, BTreeMap<String, String>)> =
            cluster.node(owner).run(&range).await;
        for (_, fields) in entries {
            assert_eq!(fields["payload"].matches(r#""name":"n""#).count(), 2, "{fields:?}");
            with_objects += 1;
        }
    }
    assert_eq!(with_objects, users.len() - 1);
}
