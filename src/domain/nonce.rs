//! Nonces of OAuth 1.0a signatures.

/// A nonce that a valid signature has used. It can be used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// The signature's time, in seconds since 1970.
    pub timestamp: u64,
    /// SHA-256 of the nonce, the consumer key and the access token.
    pub digest: [u8; 32],
}
