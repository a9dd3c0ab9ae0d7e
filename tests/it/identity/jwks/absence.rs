//! A key source that is down or slow.

use std::time::{Duration, Instant};

use markread_harness::caller::Credentials;
use markread_harness::operator::Operator;
use markread_harness::{READER, Redis, Server, eventually};
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::source::Reply;
use super::{Key, Source, serve, serve_unready, set};
use crate::answers::credentials::{assert_invalid, mark};
use crate::answers::{assert_denied, assert_untouched, retry_delay};
use crate::identity::edge::Post;

/// Longer than a server takes to notice that the source is up.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_source_that_goes_away_leaves_the_keys_in_use() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    let mut source = Source::of(&set(&[&old])).await;
    let server = serve(&redis, &source, &[]).await;

    source.stop().await;
    source.publishes(&set(&[&new]));
    assert_invalid(mark(&server, new.token()).await, "the source is down, so the key is unknown");
    mark(&server, old.token()).await.unwrap();
    assert_eq!(server.get("/readyz").await.0, 200);
    assert!(server.is_serving().await);

    source.start().await;
    mark(&server, new.token()).await.unwrap();
    assert_invalid(mark(&server, old.token()).await, "removed");
}

#[tokio::test]
async fn a_hanging_source_delays_no_call_with_a_known_key() {
    let redis = Redis::start().await;
    let key = Key::ed25519("known").await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &[]).await;
    source.replies(Reply::set(&set(&[&key])).after(Duration::from_secs(3600)));

    let before = source.fetches();
    let stranger = server.stranger(key.token_named(Some("unknown"), json!({})));
    let stranger = tokio::spawn(async move { stranger.mark(1, 1).await });
    eventually("the fetch begins", LIMIT, async || (source.fetches() > before).then_some(())).await;
    let began = Instant::now();
    for n in 0..10 {
        mark(&server, key.token_with(json!({ "jti": n.to_string() }))).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // `--call-timeout` bounds this call like any other.
    let denied = timeout(Duration::from_secs(10), stranger).await;
    let denied = denied.expect("an answer in time").unwrap().unwrap_err();
    assert!(matches!(denied.code, Code::Unauthenticated | Code::Unavailable), "{denied:?}");
}

/// The delay is the issuer's fault, so the refusal is not `DEADLINE_EXCEEDED`.
#[tokio::test]
async fn a_call_that_waits_too_long_for_a_key_is_refused() {
    let redis = Redis::start().await;
    let key = Key::ed25519("known").await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &["--call-timeout", "500ms"]).await;
    source.replies(Reply::set(&set(&[&key])).after(Duration::from_secs(3600)));
    let unknown = key.token_named(Some("unknown"), json!({}));
    let denied = mark(&server, unknown).await.unwrap_err();
    assert!(matches!(denied.code, Code::Unauthenticated | Code::Unavailable), "{denied:?}");
}

/// An issuer far away may take more than a second.
#[tokio::test]
async fn slow_keys_arrive_nevertheless() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let mut source = Source::down(Reply::set(&set(&[&key])).after(Duration::from_millis(1500)));
    source.start().await;
    let server = serve_unready(&redis, &source, &[]).await;
    eventually("the keys arrive", LIMIT, async || mark(&server, key.token()).await.ok()).await;
}

/// Asserts that the server is not ready, says why, and asks callers to retry.
async fn assert_without_keys(server: &Server, redis: &Redis, token: Credentials, what: &str) {
    let page = eventually("the page says why", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        assert_eq!(status, 503, "{what}: {page}");
        let cause = page.to_lowercase();
        (cause.contains("jwks") || cause.contains("key")).then_some(page)
    })
    .await;
    assert!(!page.contains("Redis"), "Redis is up: {page}");
    assert_eq!(server.get("/livez").await.0, 200);
    for service in ["", "markread.v1.MarkReadService"] {
        let health = Operator::new(server).health(service).await.unwrap();
        assert_eq!(health, ServingStatus::NotServing, "{what}");
    }
    Post::by(&token).send(&server.address).await.assert_refused(503, 130, what);
    let denied = mark(server, token).await.expect_err(what);
    assert_denied(&denied, Code::Unavailable, "IDENTITY_UNAVAILABLE");
    assert!(retry_delay(&denied) > Duration::ZERO, "{denied:?}");
    assert_untouched(redis, READER).await;
}

#[tokio::test]
async fn a_server_is_not_ready_before_it_has_keys() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let good = Reply::set(&set(&[&key]));
    let mut away = Source::down(good.clone());
    let server_of_away = serve_unready(&redis, &away, &[]).await;
    let mut scenes = Vec::new();
    for (what, reply) in [
        ("hangs", good.clone().after(Duration::from_secs(3600))),
        ("fails", Reply::new("500 Internal Server Error", "")),
        ("sends garbage", Reply::json("nonsense")),
    ] {
        let mut source = Source::down(reply);
        source.start().await;
        let server = serve_unready(&redis, &source, &[]).await;
        scenes.push((what, source, server));
    }
    assert_without_keys(&server_of_away, &redis, key.token(), "is down").await;
    for (what, _, server) in &scenes {
        assert_without_keys(server, &redis, key.token(), what).await;
    }

    away.start().await;
    scenes.push(("is down", away, server_of_away));
    for (what, source, server) in scenes {
        source.replies(good.clone());
        eventually(what, LIMIT, async || (server.get("/readyz").await.0 == 200).then_some(()))
            .await;
        mark(&server, key.token()).await.expect(what);
        assert!(server.is_serving().await, "{what}");
    }
}
