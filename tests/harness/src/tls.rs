//! A client over TLS that trusts one CA and may have a certificate.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::caller::{Caller, Credentials};
use crate::certificates::{Authority, Certificate};
use crate::server::exchange;

/// Settings of a TLS client. Clones share the sessions that can be resumed.
#[derive(Clone)]
pub struct TlsClient(ClientConfig);

impl TlsClient {
    /// A client that trusts this CA and shows this certificate.
    pub fn new(server_ca: &Authority, certificate: Option<&Certificate>) -> Self {
        Self::of_versions(rustls::ALL_VERSIONS, server_ca, certificate)
    }

    /// The same as [`TlsClient::new`], for some versions of TLS.
    pub fn of_versions(
        versions: &[&'static SupportedProtocolVersion],
        server_ca: &Authority,
        certificate: Option<&Certificate>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&server_ca.file()));
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some(Certificate { chain, key }) => {
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                config.with_client_auth_cert(certificates(chain), key).unwrap()
            }
        };
        Self(config)
    }

    /// Connects and offers these protocols. With TLS 1.3 the server may still refuse the client
    /// afterwards: reading then fails.
    pub async fn connect(
        &self,
        address: &str,
        protocols: &[&str],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config = self.0.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A channel for the generated client.
    pub fn channel(&self, address: &str) -> Channel {
        let client = self.clone();
        let address = address.to_owned();
        let connector = service_fn(move |_| {
            let (client, address) = (client.clone(), address.clone());
            async move { client.connect(&address, &["h2"]).await.map(TokioIo::new) }
        });
        endpoint().connect_with_connector_lazy(connector)
    }

    /// A channel on one open connection, which is not replaced when it breaks.
    pub async fn one_connection(&self, address: &str) -> Channel {
        let mut once = Some(TokioIo::new(self.connect(address, &["h2"]).await.unwrap()));
        let connector = service_fn(move |_| {
            let stream = once.take().ok_or_else(|| io::Error::other("a second connection"));
            async move { stream }
        });
        endpoint().connect_with_connector(connector).await.unwrap()
    }

    /// A caller with its own connection and these credentials.
    pub fn caller(&self, address: &str, credentials: Credentials) -> Caller {
        Caller::new(self.channel(address), credentials)
    }

    /// Sends an HTTP/1.1 request, as [`http1`](crate::server::http1) does without TLS.
    pub async fn http1(&self, address: &str, request: &str) -> Option<(String, String)> {
        exchange(self.connect(address, &["http/1.1"]).await.ok()?, request).await
    }
}

/// The connector does the TLS, so the endpoint has none; the origin is what requests name.
fn endpoint() -> Endpoint {
    let origin = "https://localhost".parse().unwrap();
    Endpoint::from_static("http://localhost").origin(origin)
}

/// Reads the certificates in a PEM file.
pub fn certificates(file: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}
