//! Certificates of other CAs, and of the client CA for other purposes.

use markread_harness::certificates::Authority;
use markread_harness::operator::grpcurl_to;
use markread_harness::raw::MARK_READ;
use markread_harness::tls::TlsClient;
use markread_harness::{MESSAGE, READER, RECIPIENT, Server};

use super::{Scene, TRUSTED, is_let_in, mark};

const SANS: &str = "DNS:gateway.example";

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_let_in() {
    let scene = Scene::new().await;
    // Has the same name as the right CA.
    let other = Authority::new().await;
    let own = scene.client_ca.issue("own", SANS).await;
    let foreign = [
        ("another CA", other.issue("client", SANS).await),
        ("the server's CA", scene.server_ca.issue("client", SANS).await),
        ("the server's own", scene.certificate.clone()),
        ("the CA of another", other.itself()),
    ];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client =
            |certificate| TlsClient::of_versions(&[version], &scene.server_ca, certificate);
        for (what, certificate) in &foreign {
            assert!(!is_let_in(&client(Some(certificate)), scene.address()).await, "{what}");
        }
        assert!(is_let_in(&client(Some(&own)), scene.address()).await);
        // A client without a certificate is let in.
        assert!(is_let_in(&client(None), scene.address()).await);
        mark(&client(None), scene.address()).await;
    }
    // In TLS 1.3 the client's handshake succeeds before the server refuses it; the call fails.
    let stranger = TlsClient::new(&scene.server_ca, Some(&foreign[0].1));
    let stranger = stranger.caller(scene.address(), super::Credentials::token_of(READER));
    stranger.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err();
    assert_eq!(scene.redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn an_expired_or_server_certificate_is_not_let_in() {
    let scene = Scene::new().await;
    let san = format!("subjectAltName={SANS}");
    let certificate = async |name: &str, usage: &str, days| {
        let extensions = format!("{san}\n{usage}");
        scene.client_ca.issue_to("/CN=a", name, &extensions, days).await
    };
    let for_clients = certificate("for-clients", "extendedKeyUsage=clientAuth", 2).await;
    let for_servers = certificate("for-servers", "extendedKeyUsage=serverAuth", 2).await;
    // It expires in the second in which it begins.
    let ended = certificate("ended", "", 0).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let client = |certificate| TlsClient::new(&scene.server_ca, Some(certificate));
    assert!(is_let_in(&client(&for_clients), scene.address()).await);
    assert!(!is_let_in(&client(&for_servers), scene.address()).await, "for servers");
    assert!(!is_let_in(&client(&ended), scene.address()).await, "ended");
}

#[tokio::test]
async fn without_a_client_ca_certificates_are_ignored() {
    let scene = Scene::new().await;
    let Scene { redis, server_ca, certificate, .. } = &scene;
    let flags = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    let server = Server::on_with(redis, &flags).await;
    let gateway = scene.gateway().await;
    mark(&gateway, &server.address).await;
    mark(&TlsClient::new(server_ca, None), &server.address).await;
    let caller = gateway.caller(&server.address, super::Credentials::UserId(READER));
    let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(denied.reason, "CREDENTIALS_MISSING");
}

#[tokio::test]
async fn a_trusted_client_is_a_way_to_authenticate() {
    let scene = Scene::new().await;
    let (url, ca) = (scene.redis.url(), scene.client_ca.file());
    let flags = [
        &["--redis-url", &url, "--client-ca", &ca, "--trusted-client", TRUSTED[0]][..],
        &["--tls-cert", &scene.certificate.chain, "--tls-key", &scene.certificate.key],
    ];
    let server = Server::spawn(&flags.concat(), false).await;
    server.wait_until_ready().await;
    let gateway = scene.gateway().await;
    let caller = gateway.caller(&server.address, super::Credentials::UserId(READER));
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let caller = gateway.caller(&server.address, super::Credentials::token_of(READER));
    let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(denied.reason, "CREDENTIALS_INVALID", "no key verifies tokens");
}

/// With another implementation of TLS.
#[tokio::test]
async fn grpcurl_calls_with_a_certificate() {
    let scene = Scene::new().await;
    let own = scene.client_ca.issue("own", SANS).await;
    let other = Authority::new().await;
    let foreign = other.issue("foreign", SANS).await;
    let port = scene.address().rsplit(':').next().unwrap();
    let address = format!("localhost:{port}");
    let ca = scene.server_ca.file();
    let call = async |certificate: &super::Certificate| {
        let user = format!("x-user-id: {READER}");
        let body = format!(r#"{{"recipient_id":"{RECIPIENT}","last_read_event_id":"{MESSAGE}"}}"#);
        let files = ["-cert", &certificate.chain, "-key", &certificate.key];
        let flags = [&["-cacert", &ca, "-H", &user, "-d", &body][..], &files].concat();
        grpcurl_to(&address, &flags, &[&MARK_READ[1..]]).await
    };
    let answer = call(&own).await;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert_eq!(scene.redis.used(READER).await, Some(1));
    assert!(!call(&foreign).await.status.success());
    let health = ["grpc.health.v1.Health/Check"];
    let health = grpcurl_to(&address, &["-cacert", &ca], &health).await;
    assert!(String::from_utf8_lossy(&health.stdout).contains("SERVING"), "{health:?}");
}
