//! Access to a protected Redis: passwords, CAs and certificates in files.

use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually, free_port};

use crate::command_line::{Files, assert_refused};

/// Longer than a probe of Redis or a reconnection takes.
const NOTICED: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_password_file_is_read_for_each_connection() {
    let files = Files::new();
    let redis = Redis::start().await;
    redis.run::<()>("ACL SETUSER markread on >first ~* &* +@all").await;
    let password = files.write("password", "first\n");
    let flags = ["--redis-username", "markread", "--redis-password-file", &password];
    let server = Server::on_with(&redis, &flags).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let clients: String = redis.run("CLIENT LIST").await;
    assert!(
        clients.lines().filter(|line| line.contains("user=markread")).count() >= 3,
        "{clients}"
    );

    // The password is changed, and connections are lost.
    redis.run::<()>("ACL SETUSER markread resetpass >second").await;
    redis.run::<u64>("CLIENT KILL USER markread").await;
    eventually("a wrong password is refused", NOTICED, async || {
        let (status, cause) = server.get("/readyz").await;
        (status == 503 && cause.contains("WRONGPASS")).then_some(())
    })
    .await;
    files.write("password", "second\n");
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let log = server.log().join("\n");
    assert!(!log.contains("first") && !log.contains("second"), "{log}");
}

#[tokio::test]
async fn one_newline_is_not_part_of_the_password() {
    let files = Files::new();
    let redis = Redis::start().await;
    redis.run::<()>("ACL SETUSER markread on >first ~* &* +@all").await;
    for newline in ["", "\n", "\r\n"] {
        let password = files.write("password", format!("first{newline}"));
        let flags = ["--redis-username", "markread", "--redis-password-file", &password];
        let server = Server::on_with(&redis, &flags).await;
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
        // A file that loses its password is named, once a new connection reads it.
        for (contents, problem) in
            [("", "is empty"), ("\n", "only a newline"), ("\r\n", "only a newline")]
        {
            files.write("password", contents);
            redis.run::<u64>("CLIENT KILL USER markread").await;
            eventually("the file is named", NOTICED, async || {
                let (status, cause) = server.get("/readyz").await;
                let named = cause.contains("--redis-password-file") && cause.contains(problem);
                (status == 503 && named).then_some(())
            })
            .await;
        }
        files.write("password", format!("first{newline}"));
        server.wait_until_ready().await;
    }
}

#[tokio::test]
async fn a_database_that_redis_does_not_have_is_named() {
    let redis = Redis::start().await;
    for database in ["16", "99"] {
        let server = Server::at(&format!("{}/{database}", redis.url()), &[], &[]).await;
        eventually("the page says why", NOTICED, async || {
            let (status, cause) = server.get("/readyz").await;
            let named = cause.contains("--redis-url names a database") && cause.contains(database);
            assert!(!cause.contains("invalid value") && !cause.contains("wrong value"), "{cause}");
            (status == 503 && named).then_some(())
        })
        .await;
        let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
        assert_eq!(denied.reason, "STORE_UNAVAILABLE");
    }
    let server = Server::at(&format!("{}/15", redis.url()), &[], &[]).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();

    let bus = free_port().to_string();
    let cluster = Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let server = Server::at(&format!("{}/1", cluster.url()), &[], &[]).await;
    eventually("the page says why", NOTICED, async || {
        let (status, cause) = server.get("/readyz").await;
        // Valkey 9 can have several in cluster mode.
        let has_none = cause.contains("cluster mode") || cause.contains("out of range");
        let named = cause.contains("--redis-url names a database") && has_none;
        (status == 503 && named).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redis_over_tls_is_verified_and_sees_a_certificate() {
    let (servers, clients) = (Authority::new().await, Authority::new().await);
    let own = servers.issue("redis", "DNS:localhost").await;
    let shown = clients.issue("markread", "DNS:markread").await;
    let (server_ca, client_ca) = (servers.file(), clients.file());
    let port = free_port().to_string();
    let settings = [
        ["--tls-port", &port, "--tls-cert-file", &own.chain],
        ["--tls-key-file", &own.key, "--tls-ca-cert-file", &client_ca],
    ];
    let redis = Redis::with(&settings.concat()).await;
    let url = format!("rediss://localhost:{port}");
    let ca = ["--redis-ca", &server_ca];
    let certificate = ["--redis-cert", &shown.chain, "--redis-key", &shown.key];
    let server = Server::at(&url, &[&ca[..], &certificate].concat(), &[]).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    assert_eq!(redis.events().await, [(READER, RECIPIENT, MESSAGE)]);

    // Without a certificate, or with another CA, there is no access.
    for flags in [&ca[..], &[&["--redis-ca", &client_ca], &certificate[..]].concat()] {
        let server = Server::at(&url, flags, &[]).await;
        eventually("the page says why", NOTICED, async || {
            let (status, cause) = server.get("/readyz").await;
            (status == 503 && cause != "not ready: not connected yet\n").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn invalid_redis_settings_are_refused_in_one_line() {
    let files = Files::new();
    let secret = files.secret();
    let (password, text, empty) =
        (files.write("password", "pw"), files.write("text", "no PEM"), files.write("empty", ""));
    let (line, crlf) = (files.write("line", "\n"), files.write("crlf", "\r\n"));
    let authority = Authority::new().await;
    let [one, other] =
        [authority.issue("one", "DNS:x").await, authority.issue("two", "DNS:y").await];
    let (plain, tls) = ("redis://h", "rediss://h");
    for (url, flags, words) in [
        (plain, &["--redis-username", "u"][..], ["--redis-username", "--redis-password-file"]),
        (plain, &["--redis-password-file", "/no"], ["--redis-password-file", "cannot be read"]),
        (plain, &["--redis-password-file", &empty], ["--redis-password-file", "is empty"]),
        (plain, &["--redis-password-file", &line], ["--redis-password-file", "only a newline"]),
        (plain, &["--redis-password-file", &crlf], ["--redis-password-file", "only a newline"]),
        ("redis://:p@h", &["--redis-password-file", &password], ["--redis-url", "remove one"]),
        (
            "redis://u@h",
            &["--redis-username", "v", "--redis-password-file", &password],
            ["--redis-username", "remove one"],
        ),
        (plain, &["--redis-ca", &one.chain], ["--redis-ca", "rediss://"]),
        (plain, &["--redis-cert", &one.chain], ["--redis-cert", "rediss://"]),
        (tls, &["--redis-ca", &text], ["--redis-ca", "no PEM certificate"]),
        (tls, &["--redis-cert", &one.chain], ["--redis-cert", "--redis-key"]),
        (tls, &["--redis-key", &one.key], ["--redis-key", "--redis-cert"]),
        (
            tls,
            &["--redis-cert", &one.chain, "--redis-key", &text],
            ["--redis-key", "no PEM private key"],
        ),
        (
            tls,
            &["--redis-cert", &one.chain, "--redis-key", &other.key],
            ["--redis-key", "does not match --redis-cert"],
        ),
    ] {
        let start = ["--jwt-secret-file", &secret, "--redis-url", url];
        assert_refused(&[&start[..], flags].concat(), &words).await;
    }
}
