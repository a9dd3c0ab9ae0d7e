//! A client over TLS, that knows one CA and may have a certificate.

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

use super::caller::{Caller, Credentials};
use super::certificates::{Authority, Certificate};
use super::server::exchange;

/// Clones share what lets a session be resumed.
#[derive(Clone)]
pub(crate) struct TlsClient(ClientConfig);

impl TlsClient {
    pub(crate) fn new(server_ca: &Authority, certificate: Option<&Certificate>) -> Self {
        Self::of_versions(rustls::ALL_VERSIONS, server_ca, certificate)
    }

    /// The same for some versions of TLS.
    pub(crate) fn of_versions(
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

    /// A connection that offers these protocols. With TLS 1.3 the server may still refuse the
    /// client: what is read then fails.
    pub(crate) async fn connect(
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

    /// What the generated client talks through.
    pub(crate) fn channel(&self, address: &str) -> Channel {
        let client = self.clone();
        let address = address.to_owned();
        let connector = service_fn(move |_| {
            let (client, address) = (client.clone(), address.clone());
            async move { client.connect(&address, &["h2"]).await.map(TokioIo::new) }
        });
        endpoint().connect_with_connector_lazy(connector)
    }

    /// The same through one connection that is there: when it breaks there is no other.
    pub(crate) async fn one_connection(&self, address: &str) -> Channel {
        let mut once = Some(TokioIo::new(self.connect(address, &["h2"]).await.unwrap()));
        let connector = service_fn(move |_| {
            let stream = once.take().ok_or_else(|| io::Error::other("a second connection"));
            async move { stream }
        });
        endpoint().connect_with_connector(connector).await.unwrap()
    }

    pub(crate) fn caller(&self, address: &str, credentials: Credentials) -> Caller {
        Caller::new(self.channel(address), credentials)
    }

    /// One request of HTTP/1.1 and its answer, as [`super::server::http1`] has them.
    pub(crate) async fn http1(&self, address: &str, request: &str) -> Option<(String, String)> {
        exchange(self.connect(address, &["http/1.1"]).await.ok()?, request).await
    }
}

/// That TLS is spoken is the connector's affair; the URL says what requests name.
fn endpoint() -> Endpoint {
    let origin = "https://localhost".parse().unwrap();
    Endpoint::from_static("http://localhost").origin(origin)
}

/// The certificates of a PEM file.
pub(crate) fn certificates(file: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}
