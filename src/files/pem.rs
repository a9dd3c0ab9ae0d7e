//! PEM text (RFC 7468).

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{problem, read};

/// Parses the certificates in PEM text. Returns `None` if there are none or one is malformed.
pub fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}

/// Parses the one private key in PEM text.
///
/// # Errors
///
/// If there is none, it is malformed, or there are several: the problem, as the end of a sentence.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem).collect();
    let mut keys = keys.unwrap_or_default();
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (None, _) => Err("contains no PEM private key".to_owned()),
        // Which one is meant cannot be known.
        (Some(_), others) => {
            Err(format!("contains {} PEM private keys: it must contain one", others + 1))
        }
    }
}

/// Reads a file of certificates that a flag names. Returns its text.
///
/// # Errors
///
/// As [`read`], or if it contains no certificate.
pub fn read_certificates(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    read_chain(flag, file).map(|(pem, _)| pem)
}

/// Reads a file with a private key that a flag names. Returns its text.
///
/// # Errors
///
/// As [`read`], or if it does not contain one private key.
pub fn read_private_key(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    read_key(flag, file).map(|(pem, _)| pem)
}

/// Reads a client's certificate chain and its private key, each from the file that a flag names.
/// Returns the texts.
///
/// # Errors
///
/// As [`read`], or if a file does not contain certificates or one key, or if they do not belong together.
pub fn read_client_identity(
    (cert_flag, cert_file): (&str, &Path),
    (key_flag, key_file): (&str, &Path),
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (cert, chain) = read_chain(cert_flag, cert_file)?;
    let (key, parsed) = read_key(key_flag, key_file)?;
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    config.with_client_auth_cert(chain, parsed).map_err(|error| {
        problem(key_flag, key_file, &format!("does not match {cert_flag}: {error}"))
    })?;
    Ok((cert, key))
}

fn read_key(flag: &str, file: &Path) -> Result<(Vec<u8>, PrivateKeyDer<'static>), String> {
    let pem = read(flag, file)?;
    let key = private_key(&pem).map_err(|what| problem(flag, file, &what))?;
    Ok((pem, key))
}

fn read_chain(flag: &str, file: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), String> {
    let pem = read(flag, file)?;
    let chain = certificates(&pem);
    let chain = chain.ok_or_else(|| problem(flag, file, "contains no PEM certificate"))?;
    Ok((pem, chain))
}
