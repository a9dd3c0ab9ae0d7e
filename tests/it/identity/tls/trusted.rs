//! Who may name the reader, on gRPC and on the HTTP edge alike.

use tonic::Code;
use tonic::metadata::{AsciiMetadataKey, MetadataValue};

use super::super::super::answers::assert_denied;
use super::super::super::answers::tokens::seconds_from_now;
use super::super::super::answers::tokens::with_claims;
use super::super::super::harness::caller::Credentials;
use super::super::super::harness::tls::TlsClient;
use super::super::super::harness::{MESSAGE, READER, RECIPIENT};
use super::super::edge::{Answer, Post};
use super::{Scene, TRUSTED};

/// A row of the contract's table: code and reason of gRPC, status and code of HTTP.
type Row = (Code, &'static str, u16, u64);

const MISSING: Row = (Code::Unauthenticated, "CREDENTIALS_MISSING", 401, 32);
const INVALID: Row = (Code::Unauthenticated, "CREDENTIALS_INVALID", 401, 89);
const NO_USER: Row = (Code::PermissionDenied, "USER_CONTEXT_REQUIRED", 403, 220);

/// What a client sends to say who calls: names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

impl Scene {
    /// A client that sends these is served as this user.
    async fn serves(&self, client: &TlsClient, headers: Headers<'_>, user: u64, what: &str) {
        let before = self.redis.used(user).await.unwrap_or_default();
        let caller = client.caller(self.address(), Credentials::Nothing);
        let mut request = caller.request(RECIPIENT, MESSAGE);
        append(request.metadata_mut(), headers);
        caller.send(request).await.expect(what);
        self.post(client, headers).await.assert_served(what);
        assert_eq!(self.redis.used(user).await, Some(before + 2), "{what}: another user's quota");
    }

    /// A client that sends these is refused, and it costs nobody anything.
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
        // Bytes that are no ASCII go as they are.
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
    // One connection is for many readers.
    let gateway = scene.gateway().await;
    for user in [1, 2, 9_223_372_036_854_775_807] {
        scene.serves(&gateway, &[("x-user-id", &user.to_string())], user, "another").await;
    }
}

#[tokio::test]
async fn a_trusted_client_that_names_nobody_has_no_user_context() {
    let scene = Scene::new().await;
    let gateway = scene.gateway().await;
    scene.refuses(&gateway, &[], NO_USER, "names nobody").await;
    for user in
        ["", "me", "0", "-1", "+1", "007", "1.0", "1e3", "0x1", "1 2", "1,1", "9223372036854775808"]
    {
        scene.refuses(&gateway, &[("x-user-id", user)], NO_USER, user).await;
    }
    scene.refuses(&gateway, &[("x-user-id", "１")], NO_USER, "a digit, not of ASCII").await;
    for pair in [["1", "1"], ["1", "2"], ["1", ""], ["", "1"], ["me", "1"]] {
        let headers = pair.map(|user| ("x-user-id", user));
        scene.refuses(&gateway, &headers, NO_USER, "names two").await;
    }
}

#[tokio::test]
async fn a_client_whose_certificate_is_not_trusted_names_nobody() {
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
    // A common name is no SAN, whether or not there are some.
    for extensions in ["", "subjectAltName=DNS:other.example"] {
        let subject = format!("/CN={dns}");
        let certificate = scene.client_ca.issue_to(&subject, "client", extensions, 2).await;
        let client = TlsClient::new(&scene.server_ca, Some(&certificate));
        scene.refuses(&client, &[("x-user-id", &user)], NO_USER, "a common name").await;
        scene.refuses(&client, &[], MISSING, "a common name").await;
    }
}

#[tokio::test]
async fn without_a_certificate_a_name_is_nothing() {
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
