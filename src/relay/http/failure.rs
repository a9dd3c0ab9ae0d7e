//! Why a request failed. The texts quote nothing of the receiver's.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::CertificateError;

use super::metered::size_problem;
use crate::relay::receiver::{Failure, FailureKind};

/// Why no connection was made.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub kind: FailureKind,
    pub detail: String,
}

impl ConnectError {
    pub(super) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Creates it from the error of a handshake or a socket; `what` failed.
    pub(super) fn io(what: &str, error: &io::Error) -> Self {
        match tls_problem(error) {
            Some(problem) => Self::new(FailureKind::Tls, format!("{what}: {problem}")),
            None => Self::new(FailureKind::Connection, format!("{what}: {}", io_problem(error))),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for ConnectError {}

/// Creates a failure without a response.
pub(super) fn failure(kind: FailureKind, detail: impl Into<String>) -> Failure {
    Failure { kind, status: None, detail: detail.into(), retry_after: None }
}

/// Returns the failure that an error of the HTTP client stands for.
pub(super) fn failure_of(error: &(dyn StdError + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut http = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return failure(error.kind, error.detail.clone());
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(problem) = size_problem(error) {
                return failure(FailureKind::Response, problem);
            }
            let ConnectError { kind, detail } = ConnectError::io("the connection broke", error);
            let is_invalid = kind != FailureKind::Tls
                && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
            let invalid = || failure(FailureKind::Response, "the response is not HTTP/1.1");
            return if is_invalid { invalid() } else { failure(kind, detail) };
        }
        http = error.downcast_ref::<hyper::Error>().or(http);
        cause = error.source();
    }
    match http {
        Some(error) if error.is_parse() => {
            failure(FailureKind::Response, "the response is not HTTP/1.1, or its head is too large")
        }
        _ => failure(FailureKind::Connection, "the connection was closed before the response"),
    }
}

/// Returns an I/O error in words of the system.
fn io_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed by the other side".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns the problem with TLS that an error stands for, if it does.
fn tls_problem(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => certificate_problem(error).to_owned(),
        rustls::Error::AlertReceived(alert) => format!("it sent the TLS alert {alert:?}"),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        rustls::Error::PeerIncompatible(_) => "no TLS version or cipher in common".to_owned(),
        rustls::Error::NoCertificatesPresented => "it has no certificate".to_owned(),
        _ => "the TLS handshake failed".to_owned(),
    })
}

/// Returns what is wrong with a certificate, without its names.
fn certificate_problem(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::UnknownIssuer => "its certificate is not signed by a known CA",
        CertificateError::Revoked => "its certificate is revoked",
        _ => "its certificate is invalid",
    }
}
