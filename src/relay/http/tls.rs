//! TLS to receivers and proxies.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

use crate::files::{certificates, private_key};

/// Returns the CAs of the system, which are read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    Arc::clone(roots)
}

/// Returns the settings for connections to a receiver: the CAs in `ca`, or those of the system, and the
/// client certificate with its key.
///
/// # Errors
///
/// The member of the file that is wrong, and the problem.
pub(super) fn client_config(
    ca: Option<&[u8]>,
    identity: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, (&'static str, String)> {
    let roots = match ca {
        Some(ca) => Arc::new(own_roots(ca).map_err(|problem| ("ca_file", problem))?),
        None => system_roots(),
    };
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)
                .ok_or_else(|| ("cert_file", "contains no PEM certificate".to_owned()))?;
            let key = private_key(key).map_err(|problem| ("key_file", problem))?;
            config.with_client_auth_cert(chain, key).map_err(|_| {
                ("key_file", "does not match cert_file, or is of another kind".to_owned())
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns the settings for connections to a proxy.
pub(super) fn proxy_config() -> ClientConfig {
    let config = ClientConfig::builder().with_root_certificates(system_roots());
    config.with_no_client_auth()
}

fn own_roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).ok_or("contains no PEM certificate")? {
        roots.add(certificate).map_err(|_| "contains a certificate that is not a CA's")?;
    }
    Ok(roots)
}
