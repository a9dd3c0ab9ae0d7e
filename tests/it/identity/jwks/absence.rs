//! A source that is away, or slow.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::super::super::answers::credentials::{assert_invalid, mark};
use super::super::super::answers::{assert_denied, assert_untouched, retry_delay};
use super::super::super::harness::caller::Credentials;
use super::super::super::harness::operator::Operator;
use super::super::super::harness::{READER, Redis, Server, eventually};
use super::super::edge::Post;
use super::source::Reply;
use super::{Key, Source, serve, serve_unready, set};

/// How long a server may take to see that the source has come.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_source_that_goes_away_leaves_the_keys_in_use() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    let mut source = Source::of(&set(&[&old])).await;
    let server = serve(&redis, &source, &[]).await;

    source.stop().await;
    source.publishes(&set(&[&new]));
    assert_invalid(mark(&server, new.token()).await, "nobody can know that key");
    mark(&server, old.token()).await.unwrap();
    assert_eq!(server.get("/readyz").await.0, 200);
    assert!(server.is_serving().await);

    source.start().await;
    mark(&server, new.token()).await.unwrap();
    assert_invalid(mark(&server, old.token()).await, "removed");
}

#[tokio::test]
async fn a_source_that_hangs_holds_up_nobody_whose_key_is_known() {
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
    // `--call-timeout` bounds that call as any other.
    let denied = timeout(Duration::from_secs(10), stranger).await;
    let denied = denied.expect("an answer in time").unwrap().unwrap_err();
    assert!(matches!(denied.code, Code::Unauthenticated | Code::Unavailable), "{denied:?}");
}

/// A call that waits for an issuer is late by nobody's fault but the issuer's.
#[tokio::test]
async fn a_call_that_waits_for_a_key_until_its_time_is_up_is_not_the_callers_deadline() {
    let redis = Redis::start().await;
    let key = Key::ed25519("known").await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &["--call-timeout", "500ms"]).await;
    source.replies(Reply::set(&set(&[&key])).after(Duration::from_secs(3600)));
    let unknown = key.token_named(Some("unknown"), json!({}));
    let denied = mark(&server, unknown).await.unwrap_err();
    assert!(matches!(denied.code, Code::Unauthenticated | Code::Unavailable), "{denied:?}");
}

/// A second is no long time for an issuer on the other side of the world.
#[tokio::test]
async fn keys_that_take_their_time_come_nevertheless() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let mut source = Source::down(Reply::set(&set(&[&key])).after(Duration::from_millis(1500)));
    source.start().await;
    let server = serve_unready(&redis, &source, &[]).await;
    eventually("the keys come", LIMIT, async || mark(&server, key.token()).await.ok()).await;
}

/// Not ready, with the cause; and calls are told to come again.
async fn assert_without_keys(server: &Server, redis: &Redis, token: Credentials, what: &str) {
    let page = eventually("the cause is told", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        assert_eq!(status, 503, "{what}: {page}");
        let told = page.to_lowercase();
        (told.contains("jwks") || told.contains("key")).then_some(page)
    })
    .await;
    assert!(!page.contains("Redis"), "Redis is there: {page}");
    assert_eq!(server.get("/livez").await.0, 200);
    for service in ["", "markread.v1.MarkReadService"] {
        let health = Operator::of(server).health(service).await.unwrap();
        assert_eq!(health, ServingStatus::NotServing, "{what}");
    }
    Post::by(&token).send(&server.address).await.assert_refused(503, 130, what);
    let denied = mark(server, token).await.expect_err(what);
    assert_denied(&denied, Code::Unavailable, "IDENTITY_UNAVAILABLE");
    assert!(retry_delay(&denied) > Duration::ZERO, "{denied:?}");
    assert_untouched(redis, READER).await;
}

#[tokio::test]
async fn without_keys_since_the_start_a_server_is_not_ready_until_they_come() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let good = Reply::set(&set(&[&key]));
    let mut away = Source::down(good.clone());
    let server_of_away = serve_unready(&redis, &away, &[]).await;
    let mut scenes = Vec::new();
    for (what, reply) in [
        ("hangs", good.clone().after(Duration::from_secs(3600))),
        ("fails", Reply::new("500 Internal Server Error", "")),
        ("talks nonsense", Reply::json("nonsense")),
    ] {
        let mut source = Source::down(reply);
        source.start().await;
        let server = serve_unready(&redis, &source, &[]).await;
        scenes.push((what, source, server));
    }
    assert_without_keys(&server_of_away, &redis, key.token(), "is away").await;
    for (what, _, server) in &scenes {
        assert_without_keys(server, &redis, key.token(), what).await;
    }

    away.start().await;
    scenes.push(("is away", away, server_of_away));
    for (what, source, server) in scenes {
        source.replies(good.clone());
        eventually(what, LIMIT, async || (server.get("/readyz").await.0 == 200).then_some(()))
            .await;
        mark(&server, key.token()).await.expect(what);
        assert!(server.is_serving().await, "{what}");
    }
}
