//! 401 and 403: missing credentials, invalid tokens, tokens without a user.

use jsonwebtoken::{Algorithm, EncodingKey};
use markread_harness::caller::Credentials;
use markread_harness::{READER, Redis, Server, free_port};
use serde_json::json;

use super::client::{BOTH, HttpRequest};
use super::{EXAMPLE, assert_done, assert_refused, examples, number};
use crate::answers::tokens::{claims, seconds_from_now, signed, with_claims};

async fn assert_all_refused(server: &Server, credentials: &Credentials, status: u16, code: u64) {
    for version in BOTH {
        for request in examples() {
            let answer = request.by(credentials).over(version, server).await;
            assert_refused(&answer, status, &[code]);
        }
    }
}

fn authorization(value: &str) -> Credentials {
    Credentials::Authorization(value.to_owned())
}

#[tokio::test]
async fn a_request_without_credentials_is_401_with_32() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    assert_all_refused(&server, &Credentials::Nothing, 401, 32).await;
    // Only a client with a certificate may name the reader.
    assert_all_refused(&server, &Credentials::UserId(READER), 401, 32).await;
    // Credentials in parameters are not read.
    for request in [
        HttpRequest::form(format!(
            "{EXAMPLE}&user_id={READER}&sender_id={READER}&x-user-id={READER}"
        )),
        HttpRequest::query(&format!("{EXAMPLE}&access_token=a&oauth_token=b")),
    ] {
        let answer = request.by(&Credentials::Nothing).over(BOTH[0], &server).await;
        assert_refused(&answer, 401, &[32]);
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}

#[tokio::test]
async fn an_invalid_token_is_401_with_89() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let forger = EncodingKey::from_secret(b"another secret, as long as the right one is");
    let Credentials::Authorization(good) = Credentials::token_of(READER) else { panic!("a token") };
    for credentials in [
        authorization("Bearer"),
        authorization("Bearer garbage"),
        authorization("bearer a.b.c"),
        authorization(&format!("{good}x")),
        authorization(&good[..=good.rfind('.').unwrap()]),
        authorization(&format!("Bearer {}", signed(Algorithm::HS256, &claims(json!({})), &forger))),
        authorization(&format!("Bearer {}", "x".repeat(8 * 1024))),
        with_claims(json!({ "exp": seconds_from_now(-40) })),
        with_claims(json!({ "exp": null })),
        with_claims(json!({ "nbf": seconds_from_now(90) })),
        with_claims(json!({ "sub": "me", "exp": 1 })),
    ] {
        assert_all_refused(&server, &credentials, 401, 89).await;
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
    for value in [good.clone(), good.replace("Bearer", "bearer")] {
        assert_done(
            &HttpRequest::form(EXAMPLE).by(&authorization(&value)).over(BOTH[0], &server).await,
        );
    }
}

#[tokio::test]
async fn a_scheme_other_than_bearer_is_401() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let signature = "OAuth oauth_consumer_key=\"a\", oauth_nonce=\"b\", oauth_signature=\"c\", \
                     oauth_signature_method=\"HMAC-SHA1\", oauth_timestamp=\"1\", \
                     oauth_token=\"d\", oauth_version=\"1.0\"";
    for (value, codes) in [
        // Only bearer tokens and OAuth signatures have codes of their own, other schemes either.
        ("Basic dXNlcjpwYXNz", &[32, 89][..]),
        ("Negotiate x", &[32, 89]),
        ("nonsense", &[32, 89]),
        // This server is not configured for OAuth.
        (signature, &[32]),
        ("OAuth", &[32]),
    ] {
        for version in BOTH {
            let request = HttpRequest::form(EXAMPLE).by(&authorization(value));
            let answer = request.over(version, &server).await;
            let answered = answer.error_codes();
            assert!(codes.contains(&answered[0]), "{value}: {answer:?}");
            assert_refused(&answer, 401, &answered[..1]);
        }
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let of = |user| match Credentials::token_of(user) {
        Credentials::Authorization(value) => value,
        other => panic!("{other:?}"),
    };
    let garbage = "Bearer garbage".to_owned();
    for [first, second] in [
        [of(READER), garbage.clone()],
        [garbage, of(READER)],
        [of(READER), of(READER + 1)],
        [of(READER), "Basic dXNlcjpwYXNz".to_owned()],
    ] {
        for version in BOTH {
            let request = HttpRequest::form(EXAMPLE).by(&authorization(&first));
            let request = request.and_header("authorization", &second);
            assert_refused(&request.over(version, &server).await, 401, &[89]);
        }
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}

#[tokio::test]
async fn a_token_without_a_user_is_403_with_220() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for sub in [json!(null), json!("me"), json!("0"), json!(7), json!("007"), json!("-1")] {
        assert_all_refused(&server, &with_claims(json!({ "sub": sub })), 403, 220).await;
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}

#[tokio::test]
async fn keys_that_were_never_fetched_are_503_with_130() {
    let redis = Redis::start().await;
    let (url, keys) = (redis.url(), format!("http://127.0.0.1:{}/keys", free_port()));
    let server = Server::spawn(&["--redis-url", &url, "--jwt-jwks-url", &keys], false).await;
    for version in BOTH {
        let answer = HttpRequest::form(EXAMPLE).over(version, &server).await;
        assert_refused(&answer, 503, &[130]);
        assert!(number(&answer.head, "retry-after") >= 1);
        let nobody = HttpRequest::form(EXAMPLE).by(&Credentials::Nothing);
        assert_refused(&nobody.over(version, &server).await, 401, &[32]);
    }
}
