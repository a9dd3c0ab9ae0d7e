//! OAuth 1.0a beside bearer tokens and gRPC.

use markread_harness::caller::Credentials;
use markread_harness::certificates::Authority;
use markread_harness::raw::MARK_READ;
use markread_harness::{READER, Redis, Server};

use super::{CredentialsFile, assert_nothing_written, client, nonces, reader};
use crate::answers::assert_denied;
use crate::answers::credentials::mark;
use crate::identity::edge::Post;

/// A valid signature for a gRPC call.
fn signed_for_grpc(server: &Server) -> Credentials {
    let mut call = reader().call(&server.address);
    call.uri = format!("http://{}{MARK_READ}", server.address);
    call.body.clear();
    Credentials::Authorization(call.sign().authorization())
}

#[tokio::test]
async fn a_signature_is_not_accepted_over_grpc() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let only = file.serve(&redis, &[]).await;
    let path = file.path();
    let flags = ["--oauth1-credentials-file", path.to_str().unwrap()];
    let beside = Server::on_with(&redis, &flags).await;
    for server in [&only, &beside] {
        let denied = mark(server, signed_for_grpc(server)).await.unwrap_err();
        assert_denied(&denied, tonic::Code::Unauthenticated, "CREDENTIALS_INVALID");
        let denied = mark(server, Credentials::Nothing).await.unwrap_err();
        assert_denied(&denied, tonic::Code::Unauthenticated, "CREDENTIALS_MISSING");
    }
    assert_nothing_written(&redis).await;
}

#[tokio::test]
async fn bearer_tokens_and_signatures_are_accepted_side_by_side() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&client("other", 42)]);
    let path = file.path();
    let flags = ["--oauth1-credentials-file", path.to_str().unwrap()];
    let server = Server::on_with(&redis, &flags).await;
    for _ in 0..2 {
        mark(&server, Credentials::token_of(READER)).await.unwrap();
        let by_token = Post::by(&Credentials::token_of(READER)).send(&server.address).await;
        by_token.assert_served("a token");
        client("other", 42).call(&server.address).send().await.assert_served("a signature");
    }
    assert_eq!((redis.used(READER).await, redis.used(42).await), (Some(4), Some(2)));
    assert_eq!(nonces(&redis).await.len(), 2);

    let bad = Post::by(&Credentials::Authorization("Bearer forged".to_owned()));
    bad.send(&server.address).await.assert_refused(401, 89, "a forged token");
    reader().call(&server.address).send().await.assert_refused(401, 32, "nobody's signature");
    let none = Post::example(&[]).send(&server.address).await;
    none.assert_refused(401, 32, "no credentials");
    let basic = Post::by(&Credentials::Authorization("Basic dXNlcjpwYXNz".to_owned()));
    basic.send(&server.address).await.assert_refused_as_one_of(401, &[32, 89], "another scheme");
}

#[tokio::test]
async fn credentials_of_a_kind_not_configured_are_refused() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let signatures = file.serve(&redis, &[]).await;
    let tokens = Server::on(&redis).await;
    let token = Post::by(&Credentials::token_of(READER)).send(&signatures.address).await;
    token.assert_refused_as_one_of(401, &[32, 89], "a token");
    let denied = mark(&signatures, Credentials::token_of(READER)).await.unwrap_err();
    assert_denied(&denied, tonic::Code::Unauthenticated, "CREDENTIALS_INVALID");
    let signature = reader().call(&tokens.address).send().await;
    signature.assert_refused_as_one_of(401, &[32, 89], "a signature");
    assert_nothing_written(&redis).await;
}

/// Warnings about the URLs that clients sign.
fn warnings(server: &Server) -> Vec<String> {
    let log = server.log().into_iter();
    log.filter(|line| line.contains("WARN") && line.contains("--public-url")).collect()
}

#[tokio::test]
async fn signatures_without_tls_cause_one_warning() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "DNS:localhost").await;
    let clear = file.serve(&redis, &[]).await;
    for _ in 0..3 {
        clear.get("/readyz").await;
        reader().call(&clear.address).send().await.assert_served("without TLS");
    }
    assert_eq!(warnings(&clear).len(), 1, "{}", clear.log().join("\n"));

    let behind_proxy = file.serve(&redis, &["--public-url", "https://api.example.com"]).await;
    let tls = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    let over_tls = file.serve(&redis, &tls).await;
    for server in [behind_proxy, over_tls, Server::on(&redis).await] {
        assert_eq!(warnings(&server), [""; 0]);
    }
}
