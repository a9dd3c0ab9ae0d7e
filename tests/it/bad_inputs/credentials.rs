//! Bearer tokens and `x-user-id`, over both protocols.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use serde_json::{Value, json};

use super::{Section, assert_keys, grpc, http};
use crate::answers::tokens::{
    bearer, claims, seconds_from_now, shared_key, signed, signed_texts, with_claims,
};
use crate::http_edge::EXAMPLE;
use crate::http_edge::client::{HttpRequest, Version};

/// What is wrong, and the credentials.
type Input = (String, Credentials);

/// The answers over gRPC and over HTTP.
async fn answers(server: &Server, credentials: &Credentials) -> [String; 2] {
    let raw = Raw::to(server).await;
    let body = raw::frame(&raw::request(RECIPIENT, MESSAGE));
    let over_grpc = raw.send(raw.grpc(MARK_READ, credentials), body).await;
    let over_http = HttpRequest::form(EXAMPLE).by(credentials).over(Version::Http1, server).await;
    [grpc(&over_grpc), http(&over_http)]
}

async fn add(section: &mut Section, server: &Server, inputs: Vec<Input>) {
    for (what, credentials) in inputs {
        let [over_grpc, over_http] = answers(server, &credentials).await;
        section.row(&[&what, &over_grpc, &over_http]);
    }
}

/// Values of the header that are not a whole token of a scheme that is supported.
fn headers() -> Vec<Input> {
    let good = signed(Algorithm::HS256, &claims(json!({})), &shared_key());
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = unsigned.split_once('.').unwrap();
    let other = signed(Algorithm::HS256, &claims(json!({ "sub": "1" })), &shared_key());
    let others_payload = other.split('.').nth(1).unwrap();
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    [
        ("`Basic dXNlcjpwYXNz`", "Basic dXNlcjpwYXNz".to_owned()),
        (
            "an OAuth signature, which this server does not accept",
            "OAuth oauth_token=\"a\"".to_owned(),
        ),
        ("`nonsense`", "nonsense".to_owned()),
        ("an empty header", String::new()),
        ("`Bearer` without a token", "Bearer".to_owned()),
        ("a token without a scheme", good.clone()),
        ("`Bearer a b`", "Bearer a b".to_owned()),
        ("`Bearer garbage`", "Bearer garbage".to_owned()),
        ("`Bearer ..`", "Bearer ..".to_owned()),
        ("a token without its signature", format!("Bearer {unsigned}.")),
        ("a token of two parts", format!("Bearer {unsigned}")),
        ("a token of four parts", format!("Bearer {good}.{signature}")),
        ("the payload of another token", format!("Bearer {header}.{others_payload}.{signature}")),
        ("`alg` of `none`, unsigned", format!("Bearer {none}.{payload}.")),
        ("`alg` of `none`, with a signature", format!("Bearer {none}.{payload}.{signature}")),
        ("a token of 8 KiB", format!("Bearer {}", "x".repeat(8 * 1024))),
    ]
    .map(|(what, value)| (what.to_owned(), Credentials::Authorization(value)))
    .into()
}

/// Tokens that are signed, by the right key or by another.
fn tokens() -> Vec<Input> {
    let key = shared_key();
    let other = EncodingKey::from_secret(b"another secret, as long as the right one is");
    let by = |algorithm, key| bearer(&signed(algorithm, &claims(json!({})), key));
    let text = |header, claims| signed_texts(Algorithm::HS256, header, claims, &key);
    let valid = claims(json!({})).to_string();
    let critical = r#"{"alg":"HS256","crit":["exp"]}"#;
    vec![
        ("signed with another secret".to_owned(), by(Algorithm::HS256, &other)),
        ("HS384".to_owned(), by(Algorithm::HS384, &key)),
        ("HS512".to_owned(), by(Algorithm::HS512, &key)),
        ("a header with `crit`".to_owned(), text(critical, &valid)),
        ("a header that is not JSON".to_owned(), text("x", &valid)),
        ("claims that are not JSON".to_owned(), text(r#"{"alg":"HS256"}"#, "x")),
        ("claims that are a list".to_owned(), text(r#"{"alg":"HS256"}"#, "[]")),
    ]
}

/// Signed tokens with these claims.
fn changed_claims() -> Vec<Input> {
    let times = [
        ("`exp` of 40 s ago", json!({ "exp": seconds_from_now(-40) })),
        ("`exp` of 1970", json!({ "exp": 1 })),
        ("no `exp`", json!({ "exp": null })),
        ("`exp` of `\"tomorrow\"`", json!({ "exp": "tomorrow" })),
        ("`exp` of −1", json!({ "exp": -1 })),
        ("`nbf` in 90 s", json!({ "nbf": seconds_from_now(90) })),
        ("`iss` that is a list", json!({ "iss": ["a"] })),
        ("no `sub`, and `exp` of 40 s ago", json!({ "sub": null, "exp": seconds_from_now(-40) })),
    ];
    let users = [
        json!("me"),
        json!(""),
        json!("0"),
        json!("007"),
        json!("-1"),
        json!("+1"),
        json!("1.0"),
        json!("9223372036854775808"),
        json!(READER),
        json!([READER.to_string()]),
    ];
    let user = |sub: Value| (format!("`sub` of `{sub}`"), json!({ "sub": sub }));
    let no_user = ("no `sub`".to_owned(), json!({ "sub": null }));
    let users = users.map(user).into_iter().chain([no_user]);
    let times = times.into_iter().map(|(what, changes)| (what.to_owned(), changes));
    times.chain(users).map(|(what, changes)| (what, with_claims(changes))).collect()
}

fn of_an_issuer() -> Vec<Input> {
    let issuer = "https://issuer.example";
    [
        ("neither `aud` nor `iss`", json!({})),
        ("no `aud`", json!({ "iss": issuer })),
        ("no `iss`", json!({ "aud": "markread" })),
        ("another `aud`", json!({ "aud": "other", "iss": issuer })),
        ("another `iss`", json!({ "aud": "markread", "iss": "https://other.example" })),
        ("`iss` with a slash more", json!({ "aud": "markread", "iss": "https://issuer.example/" })),
    ]
    .map(|(what, changes)| (format!("{what}, which the flags demand"), with_claims(changes)))
    .into()
}

#[tokio::test]
async fn bearer_tokens_and_users() {
    let mut section = Section::new(
        "Bearer tokens and users",
        "A valid mark with these credentials, over gRPC and over HTTP. Nothing is stored and no quota is used.",
        &["`authorization`", "gRPC", "HTTP"],
    );
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    add(
        &mut section,
        &server,
        vec![
            ("none".to_owned(), Credentials::Nothing),
            ("none, but `x-user-id` without a certificate".to_owned(), Credentials::UserId(READER)),
        ],
    )
    .await;
    for inputs in [headers(), tokens(), changed_claims()] {
        add(&mut section, &server, inputs).await;
    }
    let flags = ["--jwt-audience", "markread", "--jwt-issuer", "https://issuer.example"];
    let strict = Server::on_with(&redis, &flags).await;
    add(&mut section, &strict, of_an_issuer()).await;
    assert_keys(&redis, &[]).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.expect("it still serves");
    assert_eq!(redis.used(READER).await, Some(1), "refused calls take no quota");
    in_development(&mut section).await;
    section.check();
}

/// The header `x-user-id`, which a server in development believes.
async fn in_development(section: &mut Section) {
    let server = Server::dev(&[]).await;
    for user in ["", "me", "0", "-1", "007", "1,2", "9223372036854775808"] {
        let raw = Raw::to(&server).await;
        let body = raw::frame(&raw::request(RECIPIENT, MESSAGE));
        let head = raw.grpc(MARK_READ, &Credentials::Nothing).header("x-user-id", user);
        let over_grpc = grpc(&raw.send(head, body).await);
        let request = HttpRequest::form(EXAMPLE).by(&Credentials::Nothing);
        let request = request.header("x-user-id", user);
        let over_http = http(&request.over(Version::Http1, &server).await);
        section.row(&[&format!("with `--dev`, `x-user-id:{user}`"), &over_grpc, &over_http]);
    }
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.expect("it still serves");
}
