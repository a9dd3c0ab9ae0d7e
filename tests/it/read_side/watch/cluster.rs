//! Watches on a cluster: events of all partitions, and places to resume from.

use std::collections::HashSet;

use markread_harness::RedisCluster;

use super::*;

const READERS: u64 = 40;

/// Marks of many readers, so of many partitions, for one recipient.
async fn mark_all(server: &Server, message: u64) {
    let mut marking = JoinSet::new();
    for reader in 1..=READERS {
        let caller = server.caller(reader);
        marking.spawn(async move { caller.mark(RECIPIENT, message).await.unwrap() });
    }
    marking.join_all().await;
}

/// The next marks of all readers: who read which message. Nothing else may come but repeats of known events.
async fn hear(watcher: &mut Watcher, message: u64, known: &mut HashSet<String>) -> Vec<String> {
    let (mut readers, mut heard) = (HashSet::new(), Vec::new());
    while readers.len() < usize::try_from(READERS).unwrap() {
        let event = watcher.event().await;
        heard.push(event.id.clone());
        if known.insert(event.id.clone()) {
            assert_eq!(ids(&event), (event.sender_id, RECIPIENT, message));
            assert!(readers.insert(event.sender_id), "twice: {event:?}");
        }
    }
    heard
}

#[tokio::test]
async fn a_watch_on_a_cluster_hears_all_partitions_and_resumes_in_each() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &["--rate-limit", "100000"]).await;
    let (mut watcher, place) = Watcher::open(&server, RECIPIENT).await;
    let mut known = HashSet::new();
    mark_all(&server, 1).await;
    let first = hear(&mut watcher, 1, &mut known).await;
    let partitions: HashSet<_> = first.iter().map(|id| id.split('-').next().unwrap()).collect();
    assert!(partitions.len() > 10, "{partitions:?}");
    assert!(first.iter().all(|id| id.split('-').count() == 3), "{first:?}");
    drop(watcher);

    mark_all(&server, 2).await;
    // After an event, repeats of the last minute may come, from any server.
    let later = Server::on_cluster(&cluster, &[]).await;
    let mut back = Watcher::after(&later, RECIPIENT, first.last().unwrap()).await;
    let second = hear(&mut back, 2, &mut known.clone()).await;
    // After a heartbeat nothing comes twice.
    let mut back = Watcher::after(&later, RECIPIENT, &place).await;
    let (mut events, all) = (HashSet::new(), 2 * usize::try_from(READERS).unwrap());
    while events.len() < all {
        let event = back.event().await;
        assert!(events.insert(event.id.clone()), "twice: {event:?}");
    }
    back.hears_nothing().await;
    assert!(second.iter().all(|id| events.contains(id)));
    // From the oldest.
    let mut oldest = Watcher::after(&later, RECIPIENT, "0-0").await;
    hear(&mut oldest, 1, &mut HashSet::new()).await;
}

#[tokio::test]
async fn a_place_of_another_kind_of_store_is_refused() {
    let redis = Redis::start().await;
    let cluster = RedisCluster::start(3, 0).await;
    let (single, clustered) = (Server::on(&redis).await, Server::on_cluster(&cluster, &[]).await);
    let (_, place) = Watcher::open(&clustered, READER).await;
    for (server, after) in
        [(&single, "3-5-0"), (&single, &place), (&clustered, "5-0"), (&clustered, "64-5-0")]
    {
        let opened = Watcher::try_open(server, Credentials::token_of(READER), after).await;
        let denied = opened.err().expect(after);
        assert_eq!(denied.code, Code::InvalidArgument, "{after}");
        let violations = &denied.details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "after");
        assert!(violations[0].description.contains("other partitions"), "{violations:?}");
    }
}
