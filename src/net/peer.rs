//! The other end of a connection.

use std::net::IpAddr;

use http::uri::Scheme;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address that the connection comes from, never a forwarded one.
    pub address: IpAddr,
    /// How the client authenticated itself to TLS.
    pub client_auth: ClientAuth,
}

/// How a client authenticated itself to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Plaintext.
    Plaintext,
    /// TLS without a client certificate.
    Anonymous,
    /// A certificate by `--client-ca`, but not of a `--trusted-client`.
    Untrusted,
    /// A certificate of a `--trusted-client`, which may name the reader.
    Trusted,
}

impl ClientAuth {
    /// Returns the scheme of requests on the connection.
    pub fn scheme(self) -> Scheme {
        if self == Self::Plaintext { Scheme::HTTP } else { Scheme::HTTPS }
    }
}
