//! Ways to reach Redis: over TLS, through a socket, with a password.

use markread_harness::certificates::Authority;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually, free_port};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

async fn assert_marks(server: &Server, redis: &Redis) {
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn redis_over_tls_is_used_only_with_a_trusted_ca() {
    let authority = Authority::new().await;
    let certificate = authority.issue("redis", "DNS:localhost").await;
    let port = free_port();
    let files = [certificate.chain, certificate.key, authority.file()];
    let redis = Redis::with(
        &[
            &["--tls-port", &port.to_string(), "--tls-auth-clients", "no"],
            &["--tls-cert-file", &files[0], "--tls-key-file", &files[1]][..],
            &["--tls-ca-cert-file", &files[2]],
        ]
        .concat(),
    )
    .await;
    let url = format!("rediss://localhost:{port}");
    assert_marks(&Server::at(&url, &[], &[("SSL_CERT_FILE", &files[2])]).await, &redis).await;

    let stranger = Server::at(&url, &[], &[]).await;
    eventually("the certificate is refused", LIMIT, async || {
        let (status, page) = stranger.get("/readyz").await;
        (status == 503 && page.contains("certificate")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redis_is_reached_on_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock").to_str().unwrap().to_owned();
    let redis = Redis::with(&["--unixsocket", &socket]).await;
    assert_marks(&Server::at(&format!("unix://{socket}"), &[], &[]).await, &redis).await;
}

#[tokio::test]
async fn a_password_in_the_url_is_used_and_never_revealed() {
    const PASSWORD: &str = "hunter2-is-the-password";
    let redis = Redis::start().await;
    redis.run::<()>(&format!("ACL SETUSER marker on >{PASSWORD} ~* &* +@all")).await;
    let address = redis.url().replace("redis://", "");
    let trace = [("RUST_LOG", "trace")];
    let server = Server::at(&format!("redis://marker:{PASSWORD}@{address}"), &[], &trace).await;
    assert_marks(&server, &redis).await;

    let shut_out =
        Server::at(&format!("redis://marker:{PASSWORD}-not@{address}"), &[], &trace).await;
    eventually("the password is refused", LIMIT, async || {
        let (status, page) = shut_out.get("/readyz").await;
        assert!(!page.contains("hunter2"), "{page}");
        (status == 503 && page != "not ready: not connected yet\n").then_some(())
    })
    .await;
    for line in [server.log(), shut_out.log()].concat() {
        assert!(!line.contains("hunter2"), "{line}");
    }
}
