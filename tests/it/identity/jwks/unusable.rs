//! Sets without a key that could verify tokens.

use std::slice;
use std::time::Duration;

use markread_harness::{Redis, Server, eventually};
use serde_json::{Value, json};
use tonic::Code;

use super::source::Reply;
use super::{Key, Source, serve, serve_unready, set, set_of};
use crate::answers::assert_denied;
use crate::answers::credentials::{assert_invalid, mark};

/// Less than the 5 min between two regular fetches.
const LIMIT: Duration = Duration::from_secs(60);

/// The lines that say why no keys were fetched.
fn warnings(server: &Server) -> Vec<String> {
    server.log().into_iter().filter(|line| line.contains("no keys fetched")).collect()
}

/// Sets without a usable key, and what is said about each.
async fn unusable() -> Vec<(Value, &'static [&'static str])> {
    let rsa = Key::rsa("hunter2").await;
    let secret = json!({ "kty": "oct", "kid": "hunter2\n", "k": "aHVudGVyMg", "alg": "HS256" });
    let (p256, ed25519) = (Key::p256("hunter2").await, Key::ed25519("hunter2").await);
    let (x, short) =
        (p256.jwk()["x"].clone(), ed25519.jwk()["x"].as_str().unwrap()[..40].to_owned());
    let encrypts = rsa.jwk_with(json!({ "use": "enc" }));
    vec![
        (json!({ "keys": [] }), &["the set is empty"]),
        (set_of(slice::from_ref(&secret)), &["no usable key: 1 malformed or of another kind"]),
        (
            set_of(&[
                secret,
                json!({ "kty": "hunter2\u{1b}[31m" }),
                json!("hunter2"),
                // A point that is not on the curve, and a key that is cut off.
                p256.jwk_with(json!({ "y": x })),
                ed25519.jwk_with(json!({ "x": short })),
                encrypts.clone(),
                encrypts,
                rsa.jwk_with(json!({ "alg": "RS512" })),
                rsa.jwk_with(json!({ "n": "AQAB" })),
            ]),
            &[
                "5 malformed or of another kind",
                "1 RSA of fewer than 2048",
                "1 for another algorithm",
                "2 not for verifying signatures",
            ],
        ),
    ]
}

#[tokio::test]
async fn a_server_is_not_ready_with_a_set_without_a_usable_key() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    for (unusable, words) in unusable().await {
        let source = Source::of(&unusable).await;
        let server = serve_unready(&redis, &source, &[]).await;
        eventually("it says why, and looks again", LIMIT, async || {
            (warnings(&server).len() == 1 && source.fetches() >= 2).then_some(())
        })
        .await;
        let (status, page) = server.get("/readyz").await;
        assert_eq!(status, 503, "{page}");
        let warnings = warnings(&server);
        for word in words {
            assert!(page.contains(word), "{word}: {page}");
            assert!(warnings[0].contains(word), "{word}: {warnings:?}");
        }
        assert!(!page.contains("hunter2") && !warnings[0].contains("hunter2"), "{warnings:?}");
        for token in [key.token(), key.token_named(None, json!({}))] {
            let denied = mark(&server, token).await.unwrap_err();
            assert_denied(&denied, Code::Unavailable, "IDENTITY_UNAVAILABLE");
        }
        source.publishes(&set(&[&key]));
        eventually("the keys arrive", LIMIT, async || mark(&server, key.token()).await.ok()).await;
        assert_eq!(server.get("/readyz").await.0, 200);
    }
}

#[tokio::test]
async fn the_last_set_stays_until_a_usable_one_comes() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    for (unusable, words) in unusable().await {
        let source = Source::of(&set(&[&old])).await;
        let server = serve(&redis, &source, &[]).await;
        source.publishes(&unusable);
        // An unknown key ID causes a fetch.
        assert_invalid(mark(&server, new.token()).await, "unknown");
        mark(&server, old.token()).await.unwrap();
        assert_eq!(server.get("/readyz").await.0, 200);
        let warnings = warnings(&server);
        assert!(
            warnings.len() == 1 && warnings[0].contains("the current ones stay"),
            "{warnings:?}"
        );
        assert!(words.iter().all(|word| warnings[0].contains(word)), "{warnings:?}");
        assert!(!warnings[0].contains("hunter2"), "{warnings:?}");

        // No call asks for it.
        let before = source.fetches();
        source.publishes(&set(&[&new]));
        eventually("it looks again", LIMIT, async || (source.fetches() > before).then_some(()))
            .await;
        eventually("the new set is used", LIMIT, async || {
            server
                .log()
                .iter()
                .any(|line| line.contains("keys fetched") && line.contains("new"))
                .then_some(())
        })
        .await;
        mark(&server, new.token()).await.unwrap();
        assert_invalid(mark(&server, old.token()).await, "removed");
    }
}

/// Keys beside a usable one are left out without a fuss.
#[tokio::test]
async fn one_usable_key_is_enough() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let source =
        Source::down(Reply::set(&set_of(&[json!({ "kty": "oct", "k": "AA" }), key.jwk()])));
    let mut source = source;
    source.start().await;
    let server = serve(&redis, &source, &[]).await;
    mark(&server, key.token()).await.unwrap();
    mark(&server, key.token_named(None, json!({}))).await.unwrap();
    let log = server.log();
    let fetched = log.iter().find(|line| line.contains("\"--jwt-jwks-url: keys fetched\""));
    assert!(fetched.unwrap().contains("1 malformed or of another kind"), "{log:?}");
    assert!(warnings(&server).is_empty(), "{log:?}");
}
