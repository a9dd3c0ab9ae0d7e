//! Which clients may name the reader, over gRPC and over HTTP.

use markread_harness::caller::Credentials;
use markread_harness::tls::TlsClient;
use markread_harness::{MESSAGE, READER, RECIPIENT};
use tonic::Code;
use tonic::metadata::{AsciiMetadataKey, MetadataValue};

use super::{Scene, TRUSTED};
use crate::answers::assert_denied;
use crate::answers::tokens::seconds_from_now;
use crate::answers::tokens::with_claims;
use crate::identity::edge::{Answer, Post};

/// A documented refusal: code and reason over gRPC, status and code over HTTP.
type Row = (Code, &'static str, u16, u64);

const MISSING: Row = (Code::Unauthenticated, "CREDENTIALS_MISSING", 401, 32);
const INVALID: Row = (Code::Unauthenticated, "CREDENTIALS_INVALID", 401, 89);
const NO_USER: Row = (Code::PermissionDenied, "USER_CONTEXT_REQUIRED", 403, 220);

/// Names and values of the headers that a client authenticates with.
type Headers<'a> = &'a [(&'a str, &'a str)];

impl Scene {
    /// Asserts that a client with these headers is served as this user.
    async fn serves(&self, client: &TlsClient, headers: Headers<'_>, user: u64, what: &str) {
        let before = self.redis.used(user).await.unwrap_or_default();
        let caller = client.caller(self.address(), Credentials::Nothing);
        let mut request = caller.request(RECIPIENT, MESSAGE);
        append(request.metadata_mut(), headers);
        caller.send(request).await.expect(what);
        self.post(client, headers).await.assert_served(what);
        assert_eq!(self.redis.used(user).await, Some(before + 2), "{what}: another user's quota");
    }

    /// Asserts that a client with these headers is refused, and that no quota is taken.
    async fn refuses(&self, client: &TlsClient, headers: Headers<'_>, row: Row, what: &str) {
        let (code, reason, status, error) = row;
        let before = self.redis.used(READER).await;
        let caller = client.caller(self.address(), Credentials::Nothing);
        let mut request = caller.request(RECIPIENT, MESSAGE);
        append(request.metadata_mut(), headers);
        let denied = caller.send(request).await.expect_err(what);
        assert_eq!(denied.reason, reason, "{what}: {denied:?}");
        assert_denied(&denied, code, reason);
        self.post(client, headers).await.assert_refused(status, error, what);
        assert_eq!(self.redis.used(READER).await, before, "{what}");
    }

    async fn post(&self, client: &TlsClient, headers: Headers<'_>) -> Answer {
        let headers = headers.iter().map(|(name, value)| format!("{name}: {value}"));
        let post = Post::example(&headers.collect::<Vec<_>>());
        client.http1(self.address(), &post.text()).await.into()
    }
}

fn append(metadata: &mut tonic::metadata::MetadataMap, headers: Headers<'_>) {
    for (name, value) in headers {
        let name = AsciiMetadataKey::from_bytes(name.as_bytes()).unwrap();
        // Bytes outside ASCII are sent as they are.
        metadata.append(name, MetadataValue::try_from(value.as_bytes()).unwrap());
    }
}

#[tokio::test]
async fn a_trusted_client_names_the_reader() {
    let scene = Scene::new().await;
    let [dns, uri] = TRUSTED;
    let user = READER.to_string();
    for sans in [
        format!("DNS:{dns}"),
        format!("URI:{uri}"),
        format!("DNS:other.example,URI:spiffe://other,DNS:{dns}"),
        format!("IP:127.0.0.1,email:a@other.example,URI:{uri}"),
    ] {
        let client = scene.client(&sans).await;
        scene.serves(&client, &[("x-user-id", &user)], READER, &sans).await;
    }
    // One connection may serve many readers.
    let gateway = scene.gateway().await;
    for user in [1, 2, 9_223_372_036_854_775_807] {
        scene.serves(&gateway, &[("x-user-id", &user.to_string())], user, "another").await;
    }
}

#[tokio::test]
async fn a_trusted_client_without_a_user_has_no_user_context() {
    let scene = Scene::new().await;
    let gateway = scene.gateway().await;
    scene.refuses(&gateway, &[], NO_USER, "names nobody").await;
    for user in
        ["", "me", "0", "-1", "+1", "007", "1.0", "1e3", "0x1", "1 2", "1,1", "9223372036854775808"]
    {
        scene.refuses(&gateway, &[("x-user-id", user)], NO_USER, user).await;
    }
    scene.refuses(&gateway, &[("x-user-id", "１")], NO_USER, "a digit outside ASCII").await;
    for pair in [["1", "1"], ["1", "2"], ["1", ""], ["", "1"], ["me", "1"]] {
        let headers = pair.map(|user| ("x-user-id", user));
        scene.refuses(&gateway, &headers, NO_USER, "names two").await;
    }
}

/// Trust replaces a user's credentials, not the user's bounds.
#[tokio::test]
async fn a_trusted_client_has_the_quota_of_each_user_that_it_names() {
    let scene = Scene::with(&["--rate-limit", "2"]).await;
    let gateway = scene.gateway().await;
    let mark = async |user: u64| {
        let caller = gateway.caller(scene.address(), Credentials::UserId(user));
        caller.mark(RECIPIENT, MESSAGE).await
    };
    for user in [1, 2] {
        mark(user).await.unwrap();
        mark(user).await.unwrap();
        let denied = mark(user).await.unwrap_err();
        assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    }
    // A token of the same user is the same user.
    let caller = gateway.caller(scene.address(), Credentials::token_of(1));
    let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    assert_eq!(scene.redis.used(1).await, Some(2));
}

#[tokio::test]
async fn an_untrusted_client_cannot_name_the_reader() {
    let scene = Scene::new().await;
    let user = READER.to_string();
    let [dns, uri] = TRUSTED;
    for sans in [
        "DNS:other.example".to_owned(),
        format!("DNS:x{dns}"),
        format!("DNS:a.{dns}"),
        format!("DNS:{dns}.other.example"),
        format!("DNS:{}", dns.trim_end_matches('e')),
        "DNS:*.example".to_owned(),
        format!("email:a@{dns}"),
        format!("URI:https://{dns}"),
        format!("URI:{uri}/more"),
        format!("URI:{}", uri.trim_end_matches('y')),
        format!("URI:{}", uri.replace("example.org", "example.org.other")),
        format!("URI:{}", uri.replace("gateway", "Gateway")),
        format!("URI:{}", uri.replace("ns/chat", "ns/%63hat")),
    ] {
        let client = scene.client(&sans).await;
        scene.refuses(&client, &[("x-user-id", &user)], NO_USER, &sans).await;
        scene.refuses(&client, &[("x-user-id", "me")], NO_USER, &sans).await;
        scene.refuses(&client, &[], MISSING, &sans).await;
    }
    // A common name does not count, with or without SANs.
    for extensions in ["", "subjectAltName=DNS:other.example"] {
        let subject = format!("/CN={dns}");
        let certificate = scene.client_ca.issue_to(&subject, "client", extensions, 2).await;
        let client = TlsClient::new(&scene.server_ca, Some(&certificate));
        scene.refuses(&client, &[("x-user-id", &user)], NO_USER, "a common name").await;
        scene.refuses(&client, &[], MISSING, "a common name").await;
    }
}

#[tokio::test]
async fn without_a_certificate_a_named_user_is_ignored() {
    let scene = Scene::new().await;
    let user = READER.to_string();
    let stranger = scene.stranger();
    scene.refuses(&stranger, &[("x-user-id", &user)], MISSING, "names a user").await;
    scene.refuses(&stranger, &[("x-user-id", "me")], MISSING, "names nobody").await;
    scene.refuses(&stranger, &[], MISSING, "nothing at all").await;
}

#[tokio::test]
async fn an_authorization_header_decides_alone() {
    let scene = Scene::new().await;
    let token = |credentials| match credentials {
        Credentials::Authorization(value) => value,
        _ => panic!("a token"),
    };
    let good = token(Credentials::token_of(READER));
    let expired = token(with_claims(serde_json::json!({ "exp": seconds_from_now(-60) })));
    let nobodys = token(with_claims(serde_json::json!({ "sub": "me" })));
    let (gateway, other) = (scene.gateway().await, scene.client("DNS:other.example").await);
    for (what, client) in
        [("trusted", &gateway), ("untrusted", &other), ("a stranger", &scene.stranger())]
    {
        for named in [&[][..], &[("x-user-id", "42")], &[("x-user-id", "me")]] {
            let with = |value| [&[("authorization", value)], named].concat();
            scene.serves(client, &with(&good), READER, what).await;
            for bad in ["Bearer forged", "Bearer", "Basic dXNlcjpwYXNz", "", &expired] {
                scene.refuses(client, &with(bad), INVALID, what).await;
            }
            scene.refuses(client, &with(&nobodys), NO_USER, what).await;
        }
    }
    assert_eq!(scene.redis.used(42).await, None);
}
