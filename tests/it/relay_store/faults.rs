//! A Redis that hangs or is away, and slots that move.

use std::time::Instant;

use super::*;
use markread::store::StoreErrorKind;
use markread::store::redis::SentinelGroup;
use markread_harness::sentinels::{MASTER_NAME, Sentinels};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_away_after_two_seconds() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    subject.redis().freeze();
    let began = Instant::now();
    let one = [webhook()];
    let (renewed, read, state, lag) = tokio::join!(
        subject.store.renew(&lease, LONG),
        subject.store.new_entries(&lease, EntryId::ZERO, 9, BYTES),
        subject.store.state(&lease.feed.webhook),
        subject.store.lags(0, &one),
    );
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let errors = [renewed.unwrap_err(), read.unwrap_err(), state.unwrap_err(), lag.unwrap_err()];
    assert!(errors.iter().all(|error| error.kind == StoreErrorKind::Unavailable), "{errors:?}");
    subject.redis().thaw();
    eventually("it is back", LONG, async || {
        matches!(subject.store.renew(&lease, LONG).await, Ok(Leased::Held(()))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_is_an_error_that_names_it() {
    let subject = Subject::one().await;
    let redis = subject.redis();
    let lease = lease(&feed(0), "a");
    for (key, command) in [
        (STREAM, format!("SET {STREAM} x")),
        ("markread:relay:lease:one:0", "HSET markread:relay:lease:one:0 a b".to_owned()),
    ] {
        redis.run::<()>(&command).await;
        let error = subject.store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        redis.run::<()>(&format!("DEL {key}")).await;
        let left: u64 = redis.run(&format!("EXISTS {STREAM} markread:relay:lease:one:0")).await;
        assert_eq!(left, 0, "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_wrong_type_costs_no_lease() {
    let subject = Subject::one().await;
    let (redis, store) = (subject.redis(), &subject.store);
    let lease = subject.acquire(&feed(0), "a").await;
    redis.run::<()>(&format!("SET {STREAM} x")).await;
    let errors = [
        store.new_entries(&lease, EntryId::ZERO, 9, BYTES).await.unwrap_err(),
        store.pending(&lease, EntryId::ZERO, 9, BYTES).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.to_string().contains("WRONGTYPE")), "{errors:?}");
    held(store.renew(&lease, LONG).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_follow_slots_to_other_nodes() {
    let mut subject = Subject::cluster().await;
    let added = subject.add_many(0, 3).await;
    let lease = subject.acquire(&feed(0), "a").await;
    let read = subject.new_entries(&lease, 1).await;
    assert_eq!(ids(&read.entries), added[..1]);
    subject.store.subscribe(&webhook(), &[user(1)]).await.unwrap();
    let Servers::Cluster(cluster) = &mut subject.servers else { panic!("a cluster") };
    let stream = format!("{STREAM}:{{{}}}", tags(PARTITIONS)[0]);
    for key in [&*stream, "markread:subscriptions:one"] {
        let slot = markread_harness::cluster::slot_of(key);
        let to = (cluster.owner(slot).await + 1) % 3;
        cluster.move_slot(slot, to).await;
    }
    assert_eq!(ids(&subject.new_entries(&lease, 9).await.entries), added[1..]);
    assert_eq!(ids(&subject.pending(&lease).await), added);
    held(subject.store.acknowledge(&lease, &added).await.unwrap());
    assert_eq!(subject.store.are_subscribed(&webhook(), &[user(1)]).await.unwrap(), [true]);
    assert_eq!(subject.store.subscribe(&webhook(), &[user(2)]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_go_on_at_the_master_that_sentinels_promote() {
    let mut group = Sentinels::start(1).await;
    let address = |url: &str| RedisAddress::new(url, None, RedisFiles::default()).unwrap();
    let mode = RedisMode::Sentinel(SentinelGroup {
        sentinels: group.urls().iter().map(|url| address(url)).collect(),
        master_name: MASTER_NAME.to_owned(),
        master: address("redis://127.0.0.1:6379"),
    });
    let store = connected(mode, LIMIT, Access::Relay).await;
    let lease = lease(&feed(0), "a");
    held(store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap());
    let master = group.master().await;
    let add = format!("XADD {STREAM} * other 1");
    let added: String = group.node(master).run(&add).await;
    assert_eq!(
        held(store.new_entries(&lease, EntryId::ZERO, 9, BYTES).await.unwrap()).entries.len(),
        1
    );
    store.subscribe(&webhook(), &[user(1)]).await.unwrap();
    assert_eq!(group.node(master).run::<u64>("WAIT 1 10000").await, 1);

    let lost = group.kill_master().await;
    group.wait_for_failover(lost).await;
    let pending = eventually("the feed goes on", LONG, async || {
        store.pending(&lease, EntryId::ZERO, 9, BYTES).await.ok()
    })
    .await;
    assert_eq!(ids(&held(pending)), [added.parse().unwrap()]);
    assert_eq!(store.are_subscribed(&webhook(), &[user(1)]).await.unwrap(), [true]);
    operations::pass_of_webhook(&*store, &"two".parse().unwrap()).await;
}
