//! Tokens with unknown key IDs cannot make a server fetch keys over and over.

use std::time::Instant;

use markread_harness::caller::Credentials;
use markread_harness::{READER, Redis, Server};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Key, Source, serve, set};
use crate::answers::assert_untouched;
use crate::answers::credentials::{assert_invalid, mark};

/// A token with a key ID that the issuer does not have, valid otherwise.
fn unknown(key: &Key, n: usize) -> Credentials {
    key.token_named(Some(&format!("unknown-{n}")), json!({}))
}

/// Marks with a thousand unknown key IDs, this many at once.
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

/// The limit of fetches: five at once, then one in 30 s.
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
async fn a_malformed_token_causes_no_fetch() {
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
