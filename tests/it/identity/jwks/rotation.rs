//! Keys that are added, replaced and removed.

use std::time::Duration;

use markread_harness::Redis;
use serde_json::json;
use tokio::task::JoinSet;

use super::source::Reply;
use super::{Key, Source, serve, set, set_of};
use crate::answers::credentials::{assert_invalid, mark};

#[tokio::test]
async fn a_token_is_verified_by_the_key_of_any_kind_that_it_names() {
    let redis = Redis::start().await;
    let keys = [Key::rsa("rsa").await, Key::p256("p256").await, Key::ed25519("ed25519").await];
    let source = Source::of(&set(&keys.each_ref())).await;
    let server = serve(&redis, &source, &[]).await;
    // The member `alg` is optional.
    let plain = json!({ "alg": null, "use": null });
    let plain = keys.each_ref().map(|key| key.jwk_with(plain.clone()));
    let plain_source = Source::of(&set_of(&plain)).await;
    let plain_server = serve(&redis, &plain_source, &[]).await;

    for key in &keys {
        for server in [&server, &plain_server] {
            mark(server, key.token()).await.expect(&key.id);
            for other in keys.iter().filter(|other| other.id != key.id) {
                let token = key.token_named(Some(&other.id), json!({}));
                assert_invalid(mark(server, token).await, "another key's ID");
            }
        }
    }
    assert_eq!((source.fetches(), plain_source.fetches()), (1, 1), "known keys are not refetched");
}

#[tokio::test]
async fn a_new_key_works_at_once_for_one_fetch() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::p256("new").await);
    let source = Source::of(&set(&[&old])).await;
    let server = serve(&redis, &source, &[]).await;
    mark(&server, old.token()).await.unwrap();
    let before = source.fetches();

    source.publishes(&set(&[&old, &new]));
    for _ in 0..5 {
        mark(&server, new.token()).await.unwrap();
        mark(&server, old.token()).await.unwrap();
    }
    assert_eq!(source.fetches(), before + 1);
}

#[tokio::test]
async fn a_crowd_with_a_new_key_is_served() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    let source = Source::of(&set(&[&old])).await;
    let server = serve(&redis, &source, &[]).await;
    let before = source.fetches();
    source.replies(Reply::set(&set(&[&new])).after(Duration::from_millis(300)));

    let mut calls = JoinSet::new();
    for n in 0..50 {
        let caller = server.stranger(new.token_with(json!({ "jti": n.to_string() })));
        calls.spawn(async move { caller.mark(1, 1).await });
    }
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    // More than one fetch only for calls that came after the first fetch had begun.
    let fetches = source.fetches() - before;
    assert!((1..=5).contains(&fetches), "{fetches}");
}

#[tokio::test]
async fn a_removed_key_and_its_earlier_tokens_are_refused() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    let source = Source::of(&set(&[&old])).await;
    let server = serve(&redis, &source, &[]).await;
    let verified = old.token();
    mark(&server, verified.clone()).await.unwrap();

    source.publishes(&set(&[&new]));
    mark(&server, new.token()).await.unwrap();
    assert_invalid(mark(&server, verified).await, "verified before");
    assert_invalid(mark(&server, old.token_with(json!({ "jti": "1" }))).await, "signed since");
    mark(&server, new.token()).await.unwrap();
}

#[tokio::test]
async fn a_key_replaced_under_its_id_is_refused() {
    let redis = Redis::start().await;
    let keys = [Key::ed25519("same").await, Key::ed25519("same").await];
    let (old, new, other) = (&keys[0], &keys[1], Key::ed25519("other").await);
    let source = Source::of(&set(&[old])).await;
    let server = serve(&redis, &source, &[]).await;
    let verified = old.token();
    mark(&server, verified.clone()).await.unwrap();

    source.publishes(&set(&[new, &other]));
    mark(&server, other.token()).await.unwrap();
    assert_invalid(mark(&server, verified).await, "signed by the replaced key");
    mark(&server, new.token()).await.unwrap();
}
