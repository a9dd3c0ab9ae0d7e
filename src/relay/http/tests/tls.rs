use std::fs::read;

use markread_harness::certificates::{Authority, Certificate};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::files::{certificates, private_key};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK";

/// Returns the TLS of a server with a certificate, which wants one of clients if `client_ca` is set.
pub(super) fn acceptor(certificate: &Certificate, client_ca: Option<&Authority>) -> TlsAcceptor {
    let config = match client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(&read(ca.file()).unwrap()).unwrap() {
                roots.add(root).unwrap();
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&read(&certificate.chain).unwrap()).unwrap();
    let key = private_key(&read(&certificate.key).unwrap()).unwrap();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

/// Starts a server that answers over TLS.
pub(super) async fn tls_server(
    certificate: &Certificate,
    client_ca: Option<&Authority>,
) -> TestServer {
    let acceptor = acceptor(certificate, client_ca);
    TestServer::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer_all(stream, |_| OK.to_vec()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_certificate_is_verified_by_the_urls_host() {
    let ca = Authority::new().await;
    let ca_pem = read(ca.file()).unwrap();
    let server = tls_server(&ca.issue("server", "DNS:localhost,IP:127.0.0.1").await, None).await;
    let port = server.address.port();
    let attempt = async |host: &str, ca: Option<&[u8]>| {
        let url = format!("https://{host}:{port}/");
        let receiver = of_settings(HttpSettings { url: &url, ca, ..HttpSettings::default() });
        (receiver.deliver(&delivery()).await, receiver.check().await)
    };
    for host in ["localhost", "127.0.0.1", "LOCALHOST"] {
        let (delivered, check) = attempt(host, Some(&ca_pem)).await;
        assert_eq!(delivered, Attempt::Delivered(200), "{host}");
        assert!(matches!(check, Check::Refused(text) if text.contains("JSON")), "{host}");
    }
    let stranger = read(Authority::new().await.file()).unwrap();
    for (host, ca, problem) in
        [("localhost", None, "not signed by a known CA"), ("localhost", Some(&stranger), "invalid")]
    {
        let (attempt, check) = attempt(host, ca.map(Vec::as_slice)).await;
        let failure = failed(attempt);
        assert_eq!(failure.kind, FailureKind::Tls, "{host}: {failure:?}");
        assert!(failure.detail.contains(problem), "{host}: {failure:?}");
        assert!(matches!(check, Check::RefusedHere(_)), "{host}: {check:?}");
    }
    let server = tls_server(&ca.issue("other", "DNS:other.example,IP:127.0.0.2").await, None).await;
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/", server.address.port());
        let ca = Some(&ca_pem[..]);
        let receiver = of_settings(HttpSettings { url: &url, ca, ..HttpSettings::default() });
        let (kind, detail) = failure_at(&receiver).await;
        assert_eq!(kind, FailureKind::Tls, "{host}: {detail}");
        assert!(detail.contains("for another name"), "{detail}");
        assert!(!detail.contains("example"), "{detail}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let (ca, client_ca) = (Authority::new().await, Authority::new().await);
    let ca_pem = read(ca.file()).unwrap();
    let server = tls_server(&ca.issue("server", "DNS:localhost").await, Some(&client_ca)).await;
    let url = format!("https://localhost:{}/", server.address.port());
    let client = client_ca.issue("client", "DNS:relay").await;
    let (cert, key) = (read(client.chain).unwrap(), read(client.key).unwrap());
    let settings = HttpSettings { url: &url, ca: Some(&ca_pem), ..HttpSettings::default() };
    let with = HttpSettings { identity: Some((&cert, &key)), ..settings };
    assert_eq!(of_settings(with).deliver(&delivery()).await, Attempt::Delivered(200));
    let (kind, detail) = failure_at(&of_settings(settings)).await;
    assert_eq!(kind, FailureKind::Tls, "{detail}");
    assert!(detail.contains("CertificateRequired"), "{detail}");
}

#[tokio::test]
async fn what_does_not_speak_tls_is_a_failure() {
    let server = TestServer::new(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 hush\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1000]).await;
    })
    .await;
    let url = format!("https://{}/", server.address);
    let (kind, detail) = failure_at(&receiver(&url)).await;
    assert_eq!(kind, FailureKind::Tls, "{detail}");
    assert!(detail.contains("does not speak TLS"), "{detail}");
    // One that closes may be restarting: that passes.
    let server = TestServer::new(|stream| async move { drop(stream) }).await;
    let url = format!("https://{}/", server.address);
    assert_eq!(failure_at(&receiver(&url)).await.0, FailureKind::Connection);
    assert!(matches!(receiver(&url).check().await, Check::Failed(_)));
}

#[tokio::test]
async fn files_that_are_not_certificates_are_refused() {
    let ca = Authority::new().await;
    let one = ca.issue("one", "DNS:one").await;
    let two = ca.issue("two", "DNS:two").await;
    let [one_cert, one_key, two_key] = [&one.chain, &one.key, &two.key].map(|f| read(f).unwrap());
    let problem = |ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>| {
        let settings = HttpSettings { url: "https://example.com/", proxy: None, ca, identity };
        HttpReceiver::new(settings, Secrets::new(SECRET, None, &[]), ANY).unwrap_err()
    };
    assert_eq!(problem(Some(b"hush"), None).0, "ca_file");
    assert_eq!(problem(None, Some((b"hush", &one_key))).0, "cert_file");
    assert_eq!(problem(None, Some((&one_cert, b"hush"))).0, "key_file");
    let (member, text) = problem(None, Some((&one_cert, &two_key)));
    assert_eq!(member, "key_file");
    assert!(text.contains("does not match cert_file"), "{text}");
}
