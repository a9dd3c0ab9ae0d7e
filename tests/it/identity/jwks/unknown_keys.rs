//! Tokens that name keys which the issuer does not know: no way to make a server ask it all the
//! time.

use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use super::super::super::answers::assert_untouched;
use super::super::super::answers::credentials::{assert_invalid, mark};
use super::super::super::harness::caller::Credentials;
use super::super::super::harness::{READER, Redis, Server};
use super::{Key, Source, serve, set};

/// A token that would hold if only the issuer had the key.
fn unknown(key: &Key, n: usize) -> Credentials {
    key.token_named(Some(&format!("unknown-{n}")), json!({}))
}

/// Marks as a thousand strangers, so many at once.
async fn strangers_mark(server: &Server, key: &Key, at_once: usize) {
    for first in (0..1000).step_by(at_once) {
        let mut calls = JoinSet::new();
        for n in first..first + at_once {
            let caller = server.stranger(unknown(key, n));
            calls.spawn(async move { caller.mark(1, 1).await.map(drop) });
        }
        for answer in calls.join_all().await {
            assert_invalid(answer, "unknown");
        }
    }
}

/// Five at once, then one in 30 s.
fn most_fetches(began: Instant) -> usize {
    5 + usize::try_from(began.elapsed().as_secs() / 30).unwrap() + 1
}

#[tokio::test]
async fn a_thousand_unknown_keys_cause_a_handful_of_fetches() {
    for at_once in [1, 250] {
        let redis = Redis::start().await;
        let key = Key::ed25519("known").await;
        let source = Source::of(&set(&[&key])).await;
        let server = serve(&redis, &source, &[]).await;
        let (before, began) = (source.fetches(), Instant::now());

        strangers_mark(&server, &key, at_once).await;
        let fetches = source.fetches() - before;
        assert!((1..=most_fetches(began)).contains(&fetches), "{fetches}, {at_once} at once");
        assert_untouched(&redis, READER).await;
        mark(&server, key.token()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_token_at_all_causes_no_fetch() {
    let redis = Redis::start().await;
    let key = Key::ed25519("known").await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &[]).await;
    let before = source.fetches();
    for authorization in ["Basic a", "Bearer", "Bearer garbage", "Bearer a.b.c", "Bearer e30.e30."]
    {
        let stranger = Credentials::Authorization(authorization.to_owned());
        assert_invalid(mark(&server, stranger).await, authorization);
    }
    assert_eq!(source.fetches(), before);
}
