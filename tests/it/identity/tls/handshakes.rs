//! Handshakes that fail or take too long, and unusual ones that succeed.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use markread_harness::certificates::{Authority, Certificate};
use markread_harness::server::{exchange, http1};
use markread_harness::tls::TlsClient;
use markread_harness::wire::{closed, tcp};
use markread_harness::{READER, Server};
use nix::sys::signal::Signal;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{MESSAGE, RECIPIENT, Scene, is_let_in, mark};

const LIMIT: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// The beginning of a `ClientHello` of 512 bytes.
const HALF_A_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

#[tokio::test]
async fn a_tls_port_does_not_answer_plaintext() {
    let scene = Scene::new().await;
    assert_eq!(http1(scene.address(), GET).await, None);
    scene.server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(scene.redis.used(READER).await, None);
    mark(&scene.stranger(), scene.address()).await;
    // The operators' port has no TLS.
    assert_eq!(scene.server.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_in_time_is_cut() {
    let scene = Scene::with(&["--handshake-timeout", "1s"]).await;
    for bytes in [&b""[..], HALF_A_HELLO] {
        let mut stream = tcp(scene.address(), bytes).await;
        let took = closed(&mut stream).await;
        assert!((500..8000).contains(&took.as_millis()), "{bytes:?}: {took:?}");
    }
    // A byte now and then does not extend the time.
    let (mut reader, mut writer) = tcp(scene.address(), HALF_A_HELLO).await.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let mut ignored = Vec::new();
    // The connection ends with an alert or a reset.
    let _ = timeout(Duration::from_secs(8), reader.read_to_end(&mut ignored))
        .await
        .expect("cut in time");
    drip.abort();
    // A handshake alone is not enough.
    for protocols in [&["h2"][..], &["http/1.1"], &[]] {
        let began = Instant::now();
        let mut stream = scene.stranger().connect(scene.address(), protocols).await.unwrap();
        let mut ignored = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut ignored)).await.expect("cut in time");
        let took = began.elapsed();
        assert!((500..8000).contains(&took.as_millis()), "{protocols:?}: {took:?}");
    }
    mark(&scene.stranger(), scene.address()).await;
}

#[tokio::test]
async fn an_unfinished_handshake_does_not_delay_the_drain() {
    let mut scene = Scene::with(&["--handshake-timeout", "60s", "--drain", "50s"]).await;
    let address = scene.address().to_owned();
    let _silent = (tcp(&address, b"").await, tcp(&address, HALF_A_HELLO).await);
    let _idle = scene.stranger().connect(scene.address(), &["h2"]).await.unwrap();
    // Once it has served a later connection, the server has accepted these.
    assert!(is_let_in(&scene.stranger(), scene.address()).await);
    scene.server.signal(Signal::SIGTERM);
    let status = scene.server.exit(LIMIT).await;
    assert!(status.success(), "{status}");
}

/// Runs openssl with an old version of TLS, which other clients no longer have.
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
async fn broken_versions_of_tls_are_refused() {
    let scene = Scene::new().await;
    for version in ["-tls1", "-tls1_1"] {
        let output = s_client(&scene, version).await;
        let printed = String::from_utf8_lossy(&output.stderr);
        // The server refuses it, not openssl itself.
        assert!(printed.contains("SSL alert number"), "{version}: {printed}");
    }
    let output = s_client(&scene, "-tls1_2").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("Protocol  : TLSv1.2"), "{output:?}");
}

#[tokio::test]
async fn http1_needs_no_alpn_and_http2_is_preferred() {
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
async fn chains_of_certificates_are_served_and_accepted() {
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
    assert!(!is_let_in(&leaf_alone, &server.address).await, "the issuer is unknown");
}

/// A resumed session shows no certificate again, so an expired one would be accepted.
#[tokio::test]
async fn a_session_is_not_resumed_where_clients_may_have_certificates() {
    async fn kinds(client: &TlsClient, address: &str) -> [Option<HandshakeKind>; 2] {
        let mut kinds = [None; 2];
        for kind in &mut kinds {
            // Session tickets arrive after the handshake.
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
