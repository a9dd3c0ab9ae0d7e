//! How far a feed is behind.

use super::*;

async fn lag(subject: &Subject) -> (u64, Option<EntryId>) {
    let FeedLag { entries, oldest } = subject.lag(&feed(0)).await;
    (entries, oldest)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_what_is_unread_and_what_is_pending() {
    let subject = Subject::one().await;
    assert_eq!(lag(&subject).await, (0, None), "no stream");
    subject.add_many(0, 1).await;
    assert_eq!(lag(&subject).await, (0, None), "no group");
    let lease = lease(&feed(0), "a");
    let newest = subject.add_many(0, 1).await[0];
    held(subject.store.acquire(&lease, LONG, newest).await.unwrap());
    assert_eq!(lag(&subject).await, (0, None), "nothing after where it begins");
    let added = subject.add_many(0, 6).await;
    assert_eq!(lag(&subject).await, (6, Some(added[0])));
    subject.new_entries(&lease, 4).await;
    assert_eq!(lag(&subject).await, (6, Some(added[0])));
    held(subject.store.acknowledge(&lease, &added[..3]).await.unwrap());
    assert_eq!(lag(&subject).await, (3, Some(added[3])));
    held(subject.store.acknowledge(&lease, &added[3..4]).await.unwrap());
    assert_eq!(lag(&subject).await, (2, Some(added[4])));
    // What was trimmed unread is not waited for.
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 1")).await;
    assert_eq!(lag(&subject).await, (1, Some(added[5])));
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 0")).await;
    assert_eq!(lag(&subject).await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_counted_or_estimated_where_redis_does_not_know_it() {
    let subject = Subject::one().await;
    let stream = STREAM;
    let mut add = cmd("EVAL");
    // One a second, so that the estimate by time is exact.
    add.arg("for i = 1, 1000 do redis.call('XADD', KEYS[1], i * 1000, 'payload', i) end");
    subject.send::<()>(stream, add.arg(1).arg(stream).clone()).await;
    let lease = subject.acquire(&feed(0), "a").await;
    let read = subject.new_entries(&lease, 600).await.entries;
    held(subject.store.acknowledge(&lease, &ids(&read)).await.unwrap());
    assert_eq!(lag(&subject).await.0, 400);
    subject.redis().run::<()>(&format!("XDEL {stream} 990000-0")).await;
    let (entries, oldest) = lag(&subject).await;
    assert!((390..=410).contains(&entries), "{entries}");
    assert_eq!(oldest.map(|id| id.ms), Some(601_000));
    let read = subject.new_entries(&lease, 300).await.entries;
    held(subject.store.acknowledge(&lease, &ids(&read)).await.unwrap());
    let (entries, _) = lag(&subject).await;
    assert!((95..=105).contains(&entries), "{entries}");
    let read = subject.new_entries(&lease, 90).await.entries;
    held(subject.store.acknowledge(&lease, &ids(&read)).await.unwrap());
    assert_eq!(lag(&subject).await.0, 9, "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lags_of_all_webhooks_come_with_one_call() {
    let subject = Subject::one().await;
    let names = ["one", "two", "none", "three"].map(|name| name.parse().unwrap());
    let none = vec![FeedLag::default(); 4];
    assert_eq!(subject.store.lags(0, &names).await.unwrap(), none, "no stream");
    let added = subject.add_many(0, 6).await;
    for (webhook, read) in [(&names[0], 0), (&names[1], 2), (&names[3], 6)] {
        let feed = FeedId { webhook: webhook.clone(), partition: 0 };
        let lease = subject.acquire(&feed, "a").await;
        let read = subject.new_entries(&lease, read).await.entries;
        held(subject.store.acknowledge(&lease, &ids(&read)).await.unwrap());
    }
    subject.redis().run::<()>("CONFIG RESETSTAT").await;
    let lag = |entries, oldest| FeedLag { entries, oldest };
    let expected =
        [lag(6, Some(added[0])), lag(4, Some(added[2])), FeedLag::default(), FeedLag::default()];
    assert_eq!(subject.store.lags(0, &names).await.unwrap(), expected);
    assert_eq!(subject.calls("xinfo|groups").await, 1);
    assert_eq!(subject.store.lags(0, &[]).await.unwrap(), []);
}
