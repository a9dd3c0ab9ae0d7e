//! Connections that do not become what they should, and those that do in another way.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::super::super::harness::certificates::{Authority, Certificate};
use super::super::super::harness::server::{exchange, http1};
use super::super::super::harness::tls::TlsClient;
use super::super::super::harness::wire::{closed, tcp};
use super::super::super::harness::{READER, Server};
use super::{MESSAGE, RECIPIENT, Scene, is_let_in, mark};

const LIMIT: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// How a `ClientHello` of 512 bytes begins.
const HALF_A_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

#[tokio::test]
async fn nothing_is_said_in_the_clear_at_a_tls_port() {
    let scene = Scene::new().await;
    assert_eq!(http1(scene.address(), GET).await, None);
    scene.server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(scene.redis.used(READER).await, None);
    mark(&scene.stranger(), scene.address()).await;
    // The operators' port is another.
    assert_eq!(scene.server.get("/livez").await.0, 200);
}

#[tokio::test]
async fn who_does_not_shake_hands_in_time_is_shown_out() {
    let scene = Scene::with(&["--handshake-timeout", "1s"]).await;
    for bytes in [&b""[..], HALF_A_HELLO] {
        let mut stream = tcp(scene.address(), bytes).await;
        let took = closed(&mut stream).await;
        assert!((500..8000).contains(&took.as_millis()), "{bytes:?}: {took:?}");
    }
    // A byte now and then gains no time.
    let (mut reader, mut writer) = tcp(scene.address(), HALF_A_HELLO).await.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let mut ignored = Vec::new();
    // An alert or a reset: either way it is over.
    let _ =
        timeout(Duration::from_secs(8), reader.read_to_end(&mut ignored)).await.expect("shown out");
    drip.abort();
    // Nor is a handshake enough.
    for protocols in [&["h2"][..], &["http/1.1"], &[]] {
        let began = Instant::now();
        let mut stream = scene.stranger().connect(scene.address(), protocols).await.unwrap();
        let mut ignored = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut ignored)).await.expect("shown out");
        let took = began.elapsed();
        assert!((500..8000).contains(&took.as_millis()), "{protocols:?}: {took:?}");
    }
    mark(&scene.stranger(), scene.address()).await;
}

#[tokio::test]
async fn who_does_not_shake_hands_does_not_delay_the_drain() {
    let mut scene = Scene::with(&["--handshake-timeout", "60s", "--drain", "50s"]).await;
    let address = scene.address().to_owned();
    let _silent = (tcp(&address, b"").await, tcp(&address, HALF_A_HELLO).await);
    let _idle = scene.stranger().connect(scene.address(), &["h2"]).await.unwrap();
    // The server has accepted them once it has served one that came later.
    assert!(is_let_in(&scene.stranger(), scene.address()).await);
    scene.server.signal(Signal::SIGTERM);
    let status = scene.server.exit(LIMIT).await;
    assert!(status.success(), "{status}");
}

/// What openssl says of a handshake by a version of TLS that other clients do not know any more.
async fn s_client(scene: &Scene, version: &str) -> Output {
    let ciphers = ["-cipher", "DEFAULT@SECLEVEL=0"];
    let output = Command::new("openssl")
        .args(["s_client", version, "-connect", scene.address()])
        .args(ciphers)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(LIMIT, output).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn versions_of_tls_that_are_broken_are_refused() {
    let scene = Scene::new().await;
    for version in ["-tls1", "-tls1_1"] {
        let output = s_client(&scene, version).await;
        let said = String::from_utf8_lossy(&output.stderr);
        // By the server, not by openssl itself.
        assert!(said.contains("SSL alert number"), "{version}: {said}");
    }
    let output = s_client(&scene, "-tls1_2").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("Protocol  : TLSv1.2"), "{output:?}");
}

#[tokio::test]
async fn http1_needs_no_alpn_and_http2_is_preferred_where_both_are_offered() {
    let scene = Scene::new().await;
    let client = scene.stranger();
    for (offered, chosen) in [
        (&[][..], None),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
    ] {
        let stream = client.connect(scene.address(), offered).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol();
        assert_eq!(alpn, chosen.map(str::as_bytes), "{offered:?}");
        if chosen != Some("h2") {
            let (head, _) = exchange(stream, GET).await.expect("an answer");
            assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        }
    }
}

#[tokio::test]
async fn chains_of_certificates_are_served_and_taken() {
    let scene = Scene::new().await;
    let (server_root, client_root) = (Authority::new().await, Authority::new().await);
    let [server_ca, client_ca] = [server_root.below().await, client_root.below().await];
    let server = server_ca.issue("server", "DNS:localhost").await.with(&server_ca);
    let client = client_ca.issue("client", "DNS:gateway.example").await;
    let flags = ["--tls-cert", &server.chain, "--tls-key", &server.key];
    let clients = ["--client-ca", &client_root.file(), "--trusted-client", "gateway.example"];
    let server = Server::on_with(&scene.redis, &[&flags[..], &clients].concat()).await;

    let whole = TlsClient::new(&server_root, Some(&client.with(&client_ca)));
    let caller = whole.caller(&server.address, super::Credentials::UserId(READER));
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let leaf_alone = TlsClient::new(&server_root, Some(&client));
    assert!(!is_let_in(&leaf_alone, &server.address).await, "nobody knows who signed that");
}

/// A resumed session would show no certificate again: one that has ended meanwhile would do.
#[tokio::test]
async fn a_session_is_not_resumed_where_clients_may_have_certificates() {
    async fn kinds(client: &TlsClient, address: &str) -> [Option<HandshakeKind>; 2] {
        let mut kinds = [None; 2];
        for kind in &mut kinds {
            // What a session is resumed with comes behind the handshake.
            assert!(is_let_in(client, address).await);
            let stream = client.connect(address, &["http/1.1"]).await.unwrap();
            *kind = stream.get_ref().1.handshake_kind();
        }
        kinds
    }
    let scene = Scene::new().await;
    let Certificate { chain, key } = &scene.certificate;
    let flags = ["--tls-cert", chain, "--tls-key", key];
    let without_client_ca = Server::on_with(&scene.redis, &flags).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let certificate = scene.client_ca.issue("client", "DNS:gateway.example").await;
        let client = TlsClient::of_versions(&[version], &scene.server_ca, Some(&certificate));
        assert_eq!(kinds(&client, scene.address()).await, [Some(HandshakeKind::Full); 2]);
        let resumed = kinds(&client, &without_client_ca.address).await;
        assert_eq!(resumed, [Some(HandshakeKind::Resumed); 2], "the client can");
    }
}
