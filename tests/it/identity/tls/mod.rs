//! TLS, and clients that authenticate with a certificate.

use markread_harness::caller::{Caller, Credentials};
use markread_harness::certificates::{Authority, Certificate};
use markread_harness::tls::TlsClient;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};

mod handshakes;
mod renewals;
mod strangers;
mod trusted;

/// SANs of clients that may name the reader.
const TRUSTED: [&str; 2] = ["gateway.example", "spiffe://example.org/ns/chat/sa/gateway"];

/// A server with TLS that trusts [`TRUSTED`], with the CAs of its own and its clients'
/// certificates.
struct Scene {
    redis: Redis,
    server_ca: Authority,
    client_ca: Authority,
    certificate: Certificate,
    server: Server,
}

impl Scene {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let redis = Redis::start().await;
        let (server_ca, client_ca) = (Authority::new().await, Authority::new().await);
        let certificate = server_ca.issue("server", "DNS:localhost").await;
        let own = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
        let clients = ["--client-ca", &client_ca.file()];
        let trusted = TRUSTED.map(|san| ["--trusted-client", san]).concat();
        let flags = [&own[..], &clients, &trusted, flags].concat();
        let server = Server::on_with(&redis, &flags).await;
        Self { redis, server_ca, client_ca, certificate, server }
    }

    fn address(&self) -> &str {
        &self.server.address
    }

    /// A client without a certificate.
    fn stranger(&self) -> TlsClient {
        TlsClient::new(&self.server_ca, None)
    }

    /// A client with a certificate for these SANs, in openssl's notation.
    async fn client(&self, sans: &str) -> TlsClient {
        TlsClient::new(&self.server_ca, Some(&self.client_ca.issue("client", sans).await))
    }

    /// A client whose certificate the server trusts.
    async fn gateway(&self) -> TlsClient {
        self.client(&format!("DNS:{}", TRUSTED[0])).await
    }
}

/// Whether the server answers a request on a new connection; a 404 counts.
async fn is_let_in(client: &TlsClient, address: &str) -> bool {
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = client.http1(address, request).await;
    answer.is_some_and(|(head, _)| head.starts_with("HTTP/1.1 404"))
}

/// Marks with a token on a new connection.
async fn mark(client: &TlsClient, address: &str) {
    let caller = client.caller(address, Credentials::token_of(READER));
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
}
