//! TLS of the gRPC port: the server's certificate, and which clients are trusted by theirs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::files::Reread;
use crate::net::peer::Security;

/// The files of a server with TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// `--tls-cert`: the certificate chain, PEM.
    pub cert: PathBuf,
    /// `--tls-key`: its private key, PEM.
    pub key: PathBuf,
    /// `--client-ca`: who may have signed a client's certificate, PEM.
    pub client_ca: Option<PathBuf>,
}

/// Ends TLS on connections, with the certificate that the files hold now.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    reread: Reread,
    config: ArcSwap<ServerConfig>,
    trusted_clients: Vec<String>,
}

impl Tls {
    /// TLS with these files, whose contents are in the order of [`TlsFiles::by_flag`];
    /// `trusted_clients` are DNS names and URIs of certificates.
    ///
    /// # Errors
    ///
    /// Which file is wrong, and how.
    pub fn new(
        files: TlsFiles,
        contents: Vec<Vec<u8>>,
        trusted_clients: Vec<String>,
    ) -> Result<Self, String> {
        let config = ArcSwap::from_pointee(files.config(&contents)?);
        let paths = files.by_flag().into_iter().map(|(_, path)| path.clone()).collect();
        Ok(Self { files, reread: Reread::new(paths, contents), config, trusted_clients })
    }

    /// Takes the files again whenever they change, for ever. Connections that are open stay as they
    /// are.
    pub async fn keep(self: Arc<Self>) {
        let take = |contents: &[Vec<u8>]| {
            self.config.store(Arc::new(self.files.config(contents)?));
            Ok(())
        };
        self.reread.clone().keep(take).await;
    }

    /// Shakes hands, and tells what the client's certificate is worth.
    ///
    /// # Errors
    ///
    /// When the client speaks no TLS, or shows a certificate that `--client-ca` did not sign.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Security)> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let security = match certificate {
            None => Security::Tls,
            Some(certificate) if self.trusts(certificate) => Security::TrustedClient,
            Some(_) => Security::UntrustedClient,
        };
        Ok((stream, security))
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
    /// The files that there are, with the flags that name them.
    pub fn by_flag(&self) -> Vec<(&'static str, &PathBuf)> {
        let client_ca = self.client_ca.iter().map(|path| ("--client-ca", path));
        [("--tls-cert", &self.cert), ("--tls-key", &self.key)]
            .into_iter()
            .chain(client_ca)
            .collect()
    }

    /// What the files' contents come to, which are in the order of [`Self::by_flag`].
    fn config(&self, contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
        let [cert, key, client_ca @ ..] = contents else {
            return Err("--tls-cert and --tls-key go together".to_owned());
        };
        let chain = certificates(cert).ok_or_else(|| {
            format!("--tls-cert {} holds no PEM certificate", self.cert.display())
        })?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| format!("--tls-key {} holds no PEM private key", self.key.display()))?;
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
            format!("--tls-key {key} does not go with --tls-cert {cert}: {error}")
        })?;
        if self.client_ca.is_some() {
            // A session that is resumed shows no certificate again: one that has ended, or whose CA is
            // trusted no more, would stay.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Asks for a certificate, and takes none as well.
fn client_verifier(
    pem: &[u8],
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).ok_or("holds no PEM certificate")? {
        roots.add(certificate).map_err(|error| format!("holds no certificate of a CA: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| format!("holds no certificate of a CA: {error}"))
}

/// The certificates in PEM text, where there is any.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}
