//! What the server of `--jwt-jwks-url` answers.

use std::time::Duration;

use markread_harness::{Redis, eventually};
use serde_json::{Value, json};

use super::{Section, code};
use crate::identity::jwks::source::{Reply, Source};
use crate::identity::jwks::{Key, serve_unready, set_of};

/// Longer than a fetch takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Sets without a usable key.
async fn unusable() -> Vec<(&'static str, Value)> {
    let (rsa, p256, ed25519) = (Key::rsa("a").await, Key::p256("a").await, Key::ed25519("a").await);
    let x = p256.jwk()["x"].clone();
    let short = ed25519.jwk()["x"].as_str().unwrap()[..40].to_owned();
    vec![
        ("a set without keys", json!({ "keys": [] })),
        ("keys that are not a list", json!({ "keys": { "kid": "a" } })),
        ("an object without `keys`", json!({})),
        ("a list", json!([])),
        ("a secret (`oct`)", set_of(&[json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" })])),
        ("a key type that is unknown", set_of(&[json!({ "kty": "quantum" })])),
        ("a text in place of a key", set_of(&[json!("x")])),
        ("RSA of fewer than 2048 bits", set_of(&[rsa.jwk_with(json!({ "n": "AQAB" }))])),
        ("a key for encryption", set_of(&[rsa.jwk_with(json!({ "use": "enc" }))])),
        ("a key for RS512", set_of(&[rsa.jwk_with(json!({ "alg": "RS512" }))])),
        ("a point that is not on the curve", set_of(&[p256.jwk_with(json!({ "y": x }))])),
        ("a key of Ed25519 that is cut", set_of(&[ed25519.jwk_with(json!({ "x": short }))])),
    ]
}

/// What `/readyz` says while there are no keys, without the address of the test's own source.
async fn page(redis: &Redis, reply: Reply) -> String {
    let mut source = Source::down(reply);
    source.start().await;
    let server = serve_unready(redis, &source, &[]).await;
    let page = eventually("it says why", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        let says_why = page.contains("no keys") && !page.contains("not fetched yet");
        (status == 503 && says_why).then_some(page)
    })
    .await;
    page.trim().replace(&source.url(), "<url>")
}

#[tokio::test]
async fn key_sets() {
    let mut section = Section::new(
        "Key sets",
        "What the issuer's server (`--jwt-jwks-url`) answers to the first fetch, and what `/readyz` says with status \
         503 until a usable set is fetched. Meanwhile calls with a bearer token are `IDENTITY_UNAVAILABLE`.",
        &["answer of the issuer", "`/readyz`"],
    );
    let redis = Redis::start().await;
    for (what, set) in unusable().await {
        section.row(&[what, &code(&page(&redis, Reply::set(&set)).await)]);
    }
    let moved = "301 Moved Permanently\r\nlocation: /elsewhere";
    for (what, reply) in [
        ("HTML", Reply::json("<html></html>")),
        ("nothing", Reply::json("")),
        ("2 MiB of spaces", Reply::json(" ".repeat(2 * 1024 * 1024))),
        ("status 500", Reply::new("500 Internal Server Error", "{}")),
        ("status 404", Reply::new("404 Not Found", "{}")),
        ("a redirect", Reply::new(moved, "")),
    ] {
        section.row(&[what, &code(&page(&redis, reply).await)]);
    }
    section.check();
}
