//! Further checks of a token whose key is in a key set.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread_harness::caller::Credentials;
use markread_harness::certificates::{Authority, Certificate};
use markread_harness::tls::certificates;
use markread_harness::{Redis, Server, eventually};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use super::source::Reply;
use super::{Key, Source, serve, set};
use crate::answers::assert_denied;
use crate::answers::credentials::{assert_invalid, mark};
use crate::answers::tokens::{seconds_from_now, with_claims};
use crate::identity::edge::Post;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_token_without_a_key_id_is_verified_by_the_only_key() {
    let redis = Redis::start().await;
    let (key, other) = (Key::rsa("key").await, Key::rsa("other").await);
    for jwk in [key.jwk(), key.jwk_with(json!({ "kid": null, "alg": null, "use": null }))] {
        let source = Source::of(&json!({ "keys": [jwk] })).await;
        let server = serve(&redis, &source, &[]).await;
        mark(&server, key.token_named(None, json!({}))).await.unwrap();
        assert_invalid(mark(&server, other.token_named(None, json!({}))).await, "another key");
    }
}

#[tokio::test]
async fn issuer_audience_and_times_are_checked_too() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let source = Source::of(&set(&[&key])).await;
    let (audience, issuer) = ("markread", "https://issuer.example");
    let flags = ["--jwt-audience", audience, "--jwt-issuer", issuer];
    let server = serve(&redis, &source, &flags).await;
    for (what, changes) in [
        ("neither", json!({})),
        ("no audience", json!({ "iss": issuer })),
        ("no issuer", json!({ "aud": audience })),
        ("another audience", json!({ "aud": "other", "iss": issuer })),
        ("another issuer", json!({ "aud": audience, "iss": "https://other.example" })),
        ("expired", json!({ "aud": audience, "iss": issuer, "exp": seconds_from_now(-40) })),
        ("not yet", json!({ "aud": audience, "iss": issuer, "nbf": seconds_from_now(90) })),
        ("without an expiry", json!({ "aud": audience, "iss": issuer, "exp": null })),
    ] {
        let token = key.token_with(changes);
        Post::by(&token).send(&server.address).await.assert_refused(401, 89, what);
        assert_invalid(mark(&server, token).await, what);
    }
    let good = json!({ "aud": ["other", audience], "iss": issuer });
    mark(&server, key.token_with(good.clone())).await.unwrap();

    let mut nobody = good;
    nobody["sub"] = json!("me");
    let nobodys = key.token_with(nobody);
    Post::by(&nobodys).send(&server.address).await.assert_refused(403, 220, "not a user's");
    let denied = mark(&server, nobodys).await.unwrap_err();
    assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");
}

/// Sleeps until this Unix time in seconds.
async fn sleep_until(seconds: i64) {
    let until = UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap());
    sleep(until.duration_since(SystemTime::now()).unwrap_or_default()).await;
}

#[tokio::test]
async fn a_verified_token_is_forgotten_when_it_expires() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let source = Source::of(&set(&[&key])).await;
    let (fetching, with_secret) = (serve(&redis, &source, &[]).await, Server::on(&redis).await);
    for server in [&fetching, &with_secret] {
        mark(server, Credentials::Nothing).await.unwrap_err();
    }
    // The leeway adds 30 s to the token's life, which end now.
    let exp = seconds_from_now(-26);
    let tokens = [key.token_with(json!({ "exp": exp })), with_claims(json!({ "exp": exp }))];
    for (server, token) in [&fetching, &with_secret].into_iter().zip(&tokens) {
        mark(server, token.clone()).await.unwrap();
        mark(server, token.clone()).await.unwrap();
    }
    sleep_until(exp + 31).await;
    for (server, token) in [&fetching, &with_secret].into_iter().zip(&tokens) {
        assert_invalid(mark(server, token.clone()).await, "it has expired");
    }
}

#[tokio::test]
async fn a_source_behind_tls_needs_a_trusted_ca() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let (authority, other) = (Authority::new().await, Authority::new().await);
    let certificate = authority.issue("source", "DNS:localhost").await;
    let mut source = Source::down(Reply::set(&set(&[&key]))).over(acceptor(&certificate));
    source.start().await;
    let server = async |ca: &str| {
        let flags = ["--redis-url", &redis.url(), "--jwt-jwks-url", &source.url()];
        Server::spawn_in(&flags, false, &[("SSL_CERT_FILE", ca)]).await
    };
    let good = server(&authority.file()).await;
    eventually("the keys arrive", LIMIT, async || mark(&good, key.token()).await.ok()).await;

    let stranger = server(&other.file()).await;
    eventually("the certificate is refused", LIMIT, async || {
        let (status, page) = stranger.get("/readyz").await;
        (status == 503 && page.contains("certificate")).then_some(())
    })
    .await;
    let denied = mark(&stranger, key.token()).await.unwrap_err();
    assert_denied(&denied, Code::Unavailable, "IDENTITY_UNAVAILABLE");
}

fn acceptor(certificate: &Certificate) -> TlsAcceptor {
    let chain = certificates(&certificate.chain);
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
