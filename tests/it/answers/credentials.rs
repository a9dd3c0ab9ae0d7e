//! `CREDENTIALS_MISSING`, `CREDENTIALS_INVALID`, `USER_CONTEXT_REQUIRED`; and valid tokens.

use jsonwebtoken::{Algorithm, EncodingKey};
use markread_harness::caller::{Credentials, Refusal};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use serde_json::json;
use tonic::Code;

use super::tokens::{KeyPair, bearer, claims, seconds_from_now, shared_key, signed, with_claims};
use super::{assert_denied, assert_untouched};

/// Marks with this `x-user-id` and no other credentials.
async fn mark_as(server: &Server, user: &str) -> Result<(), Refusal> {
    let stranger = server.stranger(Credentials::Nothing);
    let mut request = stranger.request(RECIPIENT, MESSAGE);
    request.metadata_mut().insert("x-user-id", user.parse().unwrap());
    stranger.send(request).await.map(drop)
}

pub(crate) async fn mark(server: &Server, credentials: Credentials) -> Result<(), Refusal> {
    server.stranger(credentials).mark(RECIPIENT, MESSAGE).await.map(drop)
}

#[track_caller]
pub(crate) fn assert_invalid(answer: Result<(), Refusal>, what: &str) {
    let denied = answer.expect_err(what);
    assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_INVALID");
    assert!(denied.details.retry_info().is_none(), "a retry does not help");
}

async fn server_with_key(redis: &Redis, keys: &KeyPair) -> Server {
    let (url, file) = (redis.url(), keys.public().to_str().unwrap());
    let server = Server::spawn(&["--redis-url", &url, "--jwt-public-key-file", file], false).await;
    server.wait_until_ready().await;
    server
}

#[tokio::test]
async fn a_call_without_credentials_is_unauthenticated() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let denied = mark(&server, Credentials::Nothing).await.unwrap_err();
    assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
    // Only a client with a certificate may name the reader.
    let denied = mark_as(&server, &READER.to_string()).await.unwrap_err();
    assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
    assert_untouched(&redis, READER).await;
}

#[tokio::test]
async fn an_invalid_token_is_refused() {
    // {"alg":"none","typ":"JWT"}
    const ALG_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let key = shared_key();
    let good = signed(Algorithm::HS256, &claims(json!({})), &key);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts: {good}")
    };
    let other = signed(Algorithm::HS256, &claims(json!({ "sub": "1" })), &key);
    let others_payload = other.split('.').nth(1).unwrap();
    let wrong_secret = EncodingKey::from_secret(b"another secret, as long as the right one is");

    let tokens = [
        ("empty", String::new()),
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("no signature", format!("{header}.{payload}.")),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("another payload", format!("{header}.{others_payload}.{signature}")),
        ("no algorithm", format!("{ALG_NONE}.{payload}.")),
        ("no algorithm, signed", format!("{ALG_NONE}.{payload}.{signature}")),
        ("wrong secret", signed(Algorithm::HS256, &claims(json!({})), &wrong_secret)),
        ("HS384", signed(Algorithm::HS384, &claims(json!({})), &key)),
        ("HS512", signed(Algorithm::HS512, &claims(json!({})), &key)),
        ("long", "x".repeat(8 * 1024)),
    ];
    for (what, token) in &tokens {
        assert_invalid(mark(&server, bearer(token)).await, what);
    }
    for header in ["Basic dXNlcjpwYXNz", "OAuth oauth_token=\"a\"", "Bearer", &good, "", "bearer "]
    {
        assert_invalid(mark(&server, Credentials::Authorization(header.into())).await, header);
    }
    assert_untouched(&redis, READER).await;
    mark(&server, bearer(&good)).await.unwrap();
    mark(&server, Credentials::Authorization(format!("bearer {good}"))).await.unwrap();
}

#[tokio::test]
async fn a_token_is_valid_within_its_times_give_or_take_30_seconds() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (what, changes) in [
        ("expired", json!({ "exp": seconds_from_now(-40) })),
        ("expired long ago", json!({ "exp": 1 })),
        ("without end", json!({ "exp": null })),
        ("an end that is not a time", json!({ "exp": "tomorrow" })),
        ("not yet", json!({ "nbf": seconds_from_now(90) })),
    ] {
        assert_invalid(mark(&server, with_claims(changes)).await, what);
    }
    assert_untouched(&redis, READER).await;
    for changes in [json!({ "exp": seconds_from_now(-5) }), json!({ "nbf": seconds_from_now(20) })]
    {
        mark(&server, with_claims(changes)).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_for_another_audience_or_of_another_issuer_is_invalid() {
    let redis = Redis::start().await;
    let flags = ["--jwt-audience", "markread", "--jwt-issuer", "https://issuer.example"];
    let server = Server::on_with(&redis, &flags).await;
    let (audience, issuer) = ("markread", "https://issuer.example");
    for (what, changes) in [
        ("neither", json!({})),
        ("no audience", json!({ "iss": issuer })),
        ("no issuer", json!({ "aud": audience })),
        ("another audience", json!({ "aud": "other", "iss": issuer })),
        ("other audiences", json!({ "aud": ["other", "mark"], "iss": issuer })),
        ("another issuer", json!({ "aud": audience, "iss": "https://other.example" })),
    ] {
        assert_invalid(mark(&server, with_claims(changes)).await, what);
    }
    assert_untouched(&redis, READER).await;
    for audience in [json!(audience), json!(["other", audience])] {
        let token = with_claims(json!({ "aud": audience, "iss": issuer }));
        mark(&server, token).await.unwrap();
    }
}

#[tokio::test]
async fn only_tokens_of_the_public_keys_algorithm_are_accepted() {
    let redis = Redis::start().await;
    let pairs = [
        (Algorithm::RS256, KeyPair::rsa().await, KeyPair::rsa().await),
        (Algorithm::ES256, KeyPair::p256().await, KeyPair::p256().await),
        (Algorithm::EdDSA, KeyPair::ed25519().await, KeyPair::ed25519().await),
    ];
    for (algorithm, keys, others) in &pairs {
        let server = server_with_key(&redis, keys).await;
        let good = signed(*algorithm, &claims(json!({})), &keys.key(*algorithm));
        mark(&server, bearer(&good)).await.unwrap();

        let forged = signed(*algorithm, &claims(json!({})), &others.key(*algorithm));
        assert_invalid(mark(&server, bearer(&forged)).await, "another's key");
        let public = EncodingKey::from_secret(&keys.public_bytes());
        for hmac in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forged = signed(hmac, &claims(json!({})), &public);
            assert_invalid(mark(&server, bearer(&forged)).await, "the public key as a secret");
        }
        let expired = claims(json!({ "exp": seconds_from_now(-60) }));
        let expired = signed(*algorithm, &expired, &keys.key(*algorithm));
        assert_invalid(mark(&server, bearer(&expired)).await, "expired");
    }
    // With RSA one key signs for several algorithms.
    let (_, rsa, _) = &pairs[0];
    let server = server_with_key(&redis, rsa).await;
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let token = signed(algorithm, &claims(json!({})), &rsa.key(algorithm));
        assert_invalid(mark(&server, bearer(&token)).await, "another algorithm");
    }
    assert_eq!(redis.used(READER).await, Some(3), "a refused call takes no quota");
}

#[tokio::test]
async fn a_token_without_a_user_lacks_the_user_context() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let max_id_and_one = "9223372036854775808";
    for sub in [
        json!(null),
        json!("me"),
        json!(READER),
        json!("0"),
        json!(0),
        json!(""),
        json!("007"),
        json!("-1"),
        json!(max_id_and_one),
    ] {
        let denied = mark(&server, with_claims(json!({ "sub": sub }))).await.unwrap_err();
        assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");
    }
    // Whether the token is valid is checked first.
    let expired = json!({ "sub": "me", "exp": seconds_from_now(-60) });
    assert_invalid(mark(&server, with_claims(expired)).await, "expired");
    assert_untouched(&redis, READER).await;
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
    mark(&server, with_claims(json!({ "sub": READER.to_string() }))).await.unwrap();
}

#[tokio::test]
async fn with_dev_the_metadata_must_name_a_user() {
    let server = Server::dev(&[]).await;
    for user in ["me", "0", "-1", "007", "9223372036854775808", "1,2", ""] {
        let denied = mark_as(&server, user).await.unwrap_err();
        assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");
    }
    let denied = mark(&server, Credentials::Nothing).await.unwrap_err();
    assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
    let denied = mark(&server, bearer("whatever")).await.unwrap_err();
    assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
    mark_as(&server, &READER.to_string()).await.unwrap();
}
