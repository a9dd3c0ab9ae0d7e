//! TLS of the gRPC port: the server's certificate, and trust in those of clients.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use super::peer::ClientAuth;
use crate::files::{FileWatcher, Reread, certificates, private_key};

/// The files of a server with TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// `--tls-cert`: the certificate chain, PEM.
    pub cert: PathBuf,
    /// `--tls-key`: its private key, PEM.
    pub key: PathBuf,
    /// `--client-ca`: the CAs of client certificates, PEM.
    pub client_ca: Option<PathBuf>,
}

/// Terminates TLS on connections, with the certificate that is in the files now.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    reread: FileWatcher,
    config: ArcSwap<ServerConfig>,
    trusted_clients: Vec<String>,
}

impl Tls {
    /// Creates it from files, whose contents are in the order of [`TlsFiles::by_flag`].
    /// `trusted_clients` are DNS names and URIs in client certificates.
    ///
    /// # Errors
    ///
    /// The invalid file, and its problem.
    pub fn new(
        files: TlsFiles,
        contents: Vec<Vec<u8>>,
        trusted_clients: Vec<String>,
    ) -> Result<Self, String> {
        let config = ArcSwap::from_pointee(files.config(&contents)?);
        let paths = files.by_flag().into_iter().map(|(_, path)| path.clone()).collect();
        Ok(Self { files, reread: FileWatcher::new(paths, contents), config, trusted_clients })
    }

    /// Rereads the files when they change, for ever. Open connections keep the old certificate.
    pub async fn run(self: Arc<Self>, reread: Reread) {
        let apply = |contents: &[Vec<u8>]| {
            self.config.store(Arc::new(self.files.config(contents)?));
            Ok(())
        };
        self.reread.clone().run(&reread, apply).await;
    }

    /// Performs the handshake.
    ///
    /// # Errors
    ///
    /// If the client does not speak TLS, or its certificate is not signed by `--client-ca`.
    pub async fn accept<T>(&self, stream: T) -> io::Result<(TlsStream<T>, ClientAuth)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let client_auth = match certificate {
            None => ClientAuth::Anonymous,
            Some(certificate) if self.trusts(certificate) => ClientAuth::Trusted,
            Some(_) => ClientAuth::Untrusted,
        };
        Ok((stream, client_auth))
    }

    fn trusts(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let trusted = |name: &str, same: fn(&str, &str) -> bool| {
            self.trusted_clients.iter().any(|client| same(client, name))
        };
        certificate.valid_dns_names().any(|name| trusted(name, str::eq_ignore_ascii_case))
            || certificate.valid_uri_names().any(|name| trusted(name, |a, b| a == b))
    }
}

impl TlsFiles {
    /// Returns the files with the flags that name them.
    pub fn by_flag(&self) -> Vec<(&'static str, &PathBuf)> {
        let client_ca = self.client_ca.iter().map(|path| ("--client-ca", path));
        [("--tls-cert", &self.cert), ("--tls-key", &self.key)]
            .into_iter()
            .chain(client_ca)
            .collect()
    }

    /// Creates rustls's configuration from the files' contents, in the order of [`Self::by_flag`].
    fn config(&self, contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
        let [cert, key, client_ca @ ..] = contents else {
            return Err("--tls-cert and --tls-key must be set together".to_owned());
        };
        let chain = certificates(cert).ok_or_else(|| {
            format!("--tls-cert {} contains no PEM certificate", self.cert.display())
        })?;
        let key =
            private_key(key).map_err(|what| format!("--tls-key {} {what}", self.key.display()))?;
        let config = match (client_ca.first(), &self.client_ca) {
            (Some(client_ca), Some(path)) => {
                let about = |problem| format!("--client-ca {} {problem}", path.display());
                let verifier = client_verifier(client_ca).map_err(about)?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
            _ => ServerConfig::builder().with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(|error| {
            let (cert, key) = (self.cert.display(), self.key.display());
            format!("--tls-key {key} does not match --tls-cert {cert}: {error}")
        })?;
        if self.client_ca.is_some() {
            // A resumed session presents no certificate again, so an expired or revoked one would stay
            // accepted.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Returns a verifier that requests a certificate and does not require one.
fn client_verifier(
    pem: &[u8],
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).ok_or("contains no PEM certificate")? {
        roots.add(certificate).map_err(|error| format!("contains no CA certificate: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| format!("contains no CA certificate: {error}"))
}
