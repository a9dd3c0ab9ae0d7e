//! Who is at the other end of a connection, as far as the connection itself tells.

use std::net::IpAddr;

use http::uri::Scheme;

/// The other end of a connection; in the extensions of each of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address that the connection comes from, never a forwarded one.
    pub address: IpAddr,
    /// What TLS tells of it.
    pub security: Security,
}

/// What TLS tells of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing: there is no TLS.
    Plain,
    /// Nothing: the client showed no certificate.
    Tls,
    /// Its certificate is one of `--client-ca`, but not of a `--trusted-client`.
    UntrustedClient,
    /// It is a `--trusted-client`, which may name the reader.
    TrustedClient,
}

impl Security {
    /// The scheme of what is asked over such a connection.
    pub fn scheme(self) -> Scheme {
        if self == Self::Plain { Scheme::HTTP } else { Scheme::HTTPS }
    }
}
