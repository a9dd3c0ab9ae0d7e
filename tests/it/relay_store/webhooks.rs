//! Subscriptions, state, and the relay's processes.

use super::*;
use markread::store::relay::{Failing, Pause, Verification};

#[tokio::test(flavor = "multi_thread")]
async fn users_are_subscribed_once_and_listed_in_steps() {
    let subject = Subject::one().await;
    let (store, webhook) = (&subject.store, webhook());
    let all: Vec<_> = (1..=5000).map(user).chain([UserId::MAX]).collect();
    assert_eq!(store.subscribe(&webhook, &all).await.unwrap(), 5001);
    assert_eq!(store.subscribe(&webhook, &all[..10]).await.unwrap(), 0);
    assert_eq!(store.subscribe(&webhook, &[]).await.unwrap(), 0);
    assert_eq!(store.unsubscribe(&webhook, &[]).await.unwrap(), 0);
    assert_eq!(store.unsubscribe(&webhook, &[user(1), user(6000)]).await.unwrap(), 1);
    // Whatever else is there is no user.
    subject.redis().run::<()>("SADD markread:subscriptions:one x 01 -1 0 1.5").await;
    let (mut found, mut from, mut steps) = (Vec::new(), 0, 0);
    loop {
        let (users, next) = store.subscribers(&webhook, from).await.unwrap();
        found.extend(users);
        steps += 1;
        from = next;
        if next == 0 {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, all[1..]);
    assert!(steps > 3, "{steps}");
    let asked = [user(1), user(2), UserId::MAX, user(6000)];
    let found = store.are_subscribed(&webhook, &asked).await.unwrap();
    assert_eq!(found, [false, true, true, false]);
    assert!(store.are_subscribed(&webhook, &[]).await.unwrap().is_empty());
    let other = "two".parse().unwrap();
    assert_eq!(store.are_subscribed(&other, &[user(2)]).await.unwrap(), [false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_comes_back_as_it_was() {
    let subject = Subject::one().await;
    let (store, webhook) = (&subject.store, webhook());
    let verified = Some(Verification { at_ms: 1_518_127_183_443, settings: "abc=".to_owned() });
    let paused = |is_passing| {
        let (reason, settings) = ("é\n\"x\"".to_owned(), "d e".to_owned());
        Some(Pause { at_ms: u64::MAX, reason, is_passing, settings })
    };
    let failing = |since_ms, cause: &str| {
        let (settings, cause) = ("abc=".to_owned(), cause.to_owned());
        Some(Failing { since_ms, settings, cause })
    };
    let states = [
        WebhookState::default(),
        WebhookState { verified: verified.clone(), ..WebhookState::default() },
        WebhookState { verified: verified.clone(), failing: failing(0, ""), paused: paused(true) },
        WebhookState { paused: paused(false), ..WebhookState::default() },
        WebhookState { failing: failing(7, "a\n"), ..WebhookState::default() },
        WebhookState::default(),
    ];
    for state in states {
        store.set_state(&webhook, &state).await.unwrap();
        assert_eq!(store.state(&webhook).await.unwrap(), state);
    }
    subject.redis().run::<()>("HSET markread:relay:state:one paused_at_ms x").await;
    let error = store.state(&webhook).await.unwrap_err().to_string();
    assert!(error.contains("markread:relay:state:one has an invalid paused_at_ms"), "{error}");
    store.set_state(&webhook, &WebhookState::default()).await.unwrap();
    assert_eq!(store.state(&webhook).await.unwrap(), WebhookState::default());
    // Without settings, failures are of none.
    subject.redis().run::<()>("HSET markread:relay:state:one failing_since_ms 5").await;
    let read = store.state(&webhook).await.unwrap().failing.unwrap();
    assert_eq!((read.since_ms, &*read.settings, &*read.cause), (5, "", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_checks_a_webhook_at_a_time() {
    let subject = Subject::one().await;
    let (store, other) = (&subject.store, "two".parse().unwrap());
    assert!(store.begin_check(&webhook(), LONG).await.unwrap());
    assert!(!store.begin_check(&webhook(), LONG).await.unwrap());
    assert!(store.begin_check(&other, Duration::from_millis(50)).await.unwrap());
    assert!(!store.begin_check(&other, LONG).await.unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(store.begin_check(&other, LONG).await.unwrap());
    // After a check there is none for as long as it says.
    store.end_check(&other, Duration::from_millis(300)).await.unwrap();
    assert!(!store.begin_check(&other, LONG).await.unwrap());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(store.begin_check(&other, LONG).await.unwrap());
    store.end_check(&"absent".parse().unwrap(), LONG).await.unwrap();
    assert!(store.begin_check(&"absent".parse().unwrap(), LONG).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_forgotten_when_they_withdraw_or_fall_silent() {
    let subject = Subject::one().await;
    let store = &subject.store;
    let process = |id: &str, webhooks: &[&str]| RelayProcess {
        id: id.to_owned(),
        webhooks: webhooks.iter().map(|name| name.parse().unwrap()).collect(),
    };
    let (a, b, c) = (process("a", &["one", "two"]), process("b", &[]), process("c", &["x.y-z_"]));
    assert_eq!(store.announce(&b, LONG).await.unwrap(), std::slice::from_ref(&b));
    let short = Duration::from_millis(200);
    assert_eq!(store.announce(&c, short).await.unwrap(), [b.clone(), c.clone()]);
    assert_eq!(store.announce(&a, LONG).await.unwrap(), [a.clone(), b.clone(), c.clone()]);
    tokio::time::sleep(short).await;
    assert_eq!(store.announce(&a, LONG).await.unwrap(), [a.clone(), b.clone()]);
    store.withdraw("b").await.unwrap();
    store.withdraw("b").await.unwrap();
    let changed = process("a", &["two"]);
    assert_eq!(store.announce(&changed, LONG).await.unwrap(), std::slice::from_ref(&changed));
    // Whatever else is there is removed, or no process.
    subject.redis().run::<()>("HSET markread:relay:processes junk x d {} ").await;
    let far = "HSET markread:relay:processes e {\"until_ms\":99999999999999,\"x\":1}";
    subject.redis().run::<()>(far).await;
    assert_eq!(store.announce(&changed, short).await.unwrap(), std::slice::from_ref(&changed));
    assert_eq!(subject.redis().run::<u64>("HLEN markread:relay:processes").await, 2);
    store.withdraw("e").await.unwrap();
    assert_eq!(store.announce(&changed, short).await.unwrap(), [changed]);
    eventually("the key expires with the last process", LONG, async || {
        let exists: u64 = subject.redis().run("EXISTS markread:relay:processes").await;
        (exists == 0).then_some(())
    })
    .await;
}
