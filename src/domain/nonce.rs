//! Nonces of OAuth 1.0a signatures.

/// A nonce that was used, by a signature that holds. It may be used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// The signature's time, in seconds since 1970.
    pub timestamp: u64,
    /// The SHA-256 of the nonce and of whose it is.
    pub digest: [u8; 32],
}
