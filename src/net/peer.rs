//! The other end of a connection.

use std::net::{IpAddr, Ipv6Addr};

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

/// Returns the address that a peer is counted by: its IPv4 address or its IPv6 /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_differ_by_ipv4_address_and_ipv6_network() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
    }
}
