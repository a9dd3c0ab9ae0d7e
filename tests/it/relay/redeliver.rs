//! `markread webhook redeliver` sends dead letters again.

use std::collections::HashSet;
use std::path::PathBuf;

use markread_harness::events::{payload, publish};
use markread_harness::receiver::Reply;
use markread_harness::relay::{TO_LOOPBACK, webhook};
use markread_harness::{Receiver, Redis, Relay, WebhookFile};

use super::letters::{letters, wait_for_letters};
use super::{ALL, wait_until_done};

/// A Redis with the dead letters of 9 events: 3 readers, and users 1 to 3.
async fn with_letters() -> (Redis, Receiver, WebhookFile) {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(500));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let mut relay = Relay::on_with(&redis, &file, &["--max-attempts", "1"]).await;
    let events = (1..=3).flat_map(|user| (1..=3).map(move |message| payload(9, user, message)));
    publish(&redis, &events.collect::<Vec<_>>()).await;
    wait_for_letters(&redis, 9).await;
    wait_until_done(&redis, "main").await;
    relay.stop(super::SOON).await;
    (redis, receiver, file)
}

async fn redeliver(redis: &Redis, file: &WebhookFile, flags: &[&str]) -> (Option<i32>, String) {
    let path: PathBuf = file.path();
    let own = ["redeliver", "main", "--webhooks", path.to_str().unwrap()];
    let arguments = [&own[..], &TO_LOOPBACK, flags].concat();
    let output = webhook(&["--redis-url", &redis.url()], &arguments).await;
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

#[tokio::test]
async fn letters_are_chosen_by_id_and_user_and_leave_when_they_arrive() {
    let (redis, receiver, file) = with_letters().await;
    let failed: HashSet<_> = receiver.arrivals().iter().map(|arrival| arrival.id.clone()).collect();
    assert_eq!(failed.len(), 9);

    // While the receiver fails, they stay.
    let (code, printed) = redeliver(&redis, &file, &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert_eq!(letters(&redis).await.len(), 9);

    receiver.answer(Reply::Status(200));
    let one =
        receiver.arrivals().iter().find(|arrival| arrival.lane.recipient == 2).unwrap().id.clone();
    let (code, printed) = redeliver(&redis, &file, &["--id", &one]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(receiver.accepted_ids(), HashSet::from([one]));
    assert_eq!(letters(&redis).await.len(), 8);

    let (code, printed) = redeliver(&redis, &file, &["--user", "3"]).await;
    assert_eq!(code, Some(0), "{printed}");
    let accepted = receiver.accepted();
    assert_eq!(accepted.len(), 4);
    assert!(accepted[1..].iter().all(|arrival| arrival.lane.for_user == 3));
    assert_eq!(letters(&redis).await.len(), 5);

    let (code, printed) = redeliver(&redis, &file, &["--since", "1h"]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(receiver.accepted_ids(), failed, "with the IDs of the first attempts");
    assert!(letters(&redis).await.is_empty());
    for user in 1..=2 {
        let of_user =
            receiver.accepted().into_iter().filter(|arrival| arrival.lane.for_user == user);
        let order: Vec<_> = of_user.skip(usize::from(user == 2)).map(|at| at.entry).collect();
        assert!(order.is_sorted(), "{order:?}");
    }

    // Nothing is left: that is no failure.
    let (code, printed) = redeliver(&redis, &file, &[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(receiver.accepted().len(), 9);
}

#[tokio::test]
async fn older_letters_are_left_where_only_recent_ones_are_wanted() {
    let (redis, receiver, file) = with_letters().await;
    receiver.answer(Reply::Status(200));
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let (code, printed) = redeliver(&redis, &file, &["--since", "2s"]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!((receiver.accepted_count(), letters(&redis).await.len()), (0, 9));
}
