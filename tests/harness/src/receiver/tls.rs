//! TLS of a receiver.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::certificates::{Authority, Certificate};

/// The settings of a server with this certificate, which wants clients' if there is a CA for them.
pub(super) fn config(
    certificate: &Certificate,
    client_ca: Option<&Authority>,
) -> Arc<ServerConfig> {
    let read = |file: &str| {
        let certificates = CertificateDer::pem_file_iter(file).unwrap();
        certificates.map(Result::unwrap).collect::<Vec<_>>()
    };
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(read(&ca.file()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    Arc::new(config.with_single_cert(read(&certificate.chain), key).unwrap())
}
