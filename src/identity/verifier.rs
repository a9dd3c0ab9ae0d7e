//! Verifies the signatures of tokens. The accepted algorithm follows from the key, never from a token's
//! header.

use std::fmt;

use jsonwebtoken::crypto;
use jsonwebtoken::errors::Error;
use jsonwebtoken::{Algorithm, DecodingKey};

use super::jwt::{Secret, Token};

/// Sizes of an RSA modulus, in bits: at least as RFC 7518 section 3.3 demands, at most what the crypto
/// library accepts.
pub(super) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Verifies signatures with one key.
pub struct Verifier {
    key: DecodingKey,
    algorithm: Algorithm,
}

impl Verifier {
    /// Creates a verifier of HS256 tokens.
    pub fn with_secret(secret: &Secret) -> Self {
        Self::new(DecodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
    }

    /// Creates a verifier with a PEM public key, for its one algorithm: RS256 for RSA, ES256 for P-256,
    /// `EdDSA` for Ed25519.
    ///
    /// # Errors
    ///
    /// If the text is not exactly one such key: the problem, as the end of a sentence.
    pub fn with_public_key(pem: &[u8]) -> Result<Self, String> {
        type FromPem = fn(&[u8]) -> Result<DecodingKey, Error>;
        let kinds: [(FromPem, Algorithm); 3] = [
            (DecodingKey::from_rsa_pem, Algorithm::RS256),
            (DecodingKey::from_ec_pem, Algorithm::ES256),
            (DecodingKey::from_ed_pem, Algorithm::EdDSA),
        ];
        // Which of several is meant cannot be known, and one of them may be private.
        let blocks = pem::parse_many(pem)
            .map_err(|_| "contains malformed PEM: it must contain one public key")?;
        let keys = blocks.iter().filter(|block| block.tag().ends_with("KEY")).count();
        if keys > 1 {
            return Err(format!("contains {keys} PEM keys: it must contain one public key"));
        }
        let (key, algorithm) = kinds
            .into_iter()
            .find_map(|(from_pem, algorithm)| Some((from_pem(pem).ok()?, algorithm)))
            .filter(|(_, algorithm)| can_verify(pem, *algorithm))
            .ok_or("contains no PEM public key of RSA (at least 2048 bits), P-256 or Ed25519")?;
        Ok(Self::new(key, algorithm))
    }

    pub(super) fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        Self { key, algorithm }
    }

    /// Returns the one algorithm that it accepts.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns whether the token is signed with this key and its algorithm.
    pub(super) fn verify(&self, token: &Token<'_>) -> bool {
        let signed = token.signed.as_bytes();
        token.algorithm() == self.algorithm
            && crypto::verify(token.signature, signed, &self.key, self.algorithm).unwrap_or(false)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Returns whether tokens can be verified with a key that parses. Parsing alone accepts some private
/// keys, other curves, and RSA keys that are too short (RFC 7518 section 3.3).
fn can_verify(pem: &[u8], algorithm: Algorithm) -> bool {
    /// Object identifier of P-256, 1.2.840.10045.3.1.7, in DER (RFC 5480).
    const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let Ok(pem) = pem::parse(pem) else { return false };
    let der = pem.contents();
    pem.tag().ends_with("PUBLIC KEY")
        && match algorithm {
            Algorithm::RS256 => der.len() > RSA_BITS.start() / 8,
            Algorithm::ES256 => der.windows(P256.len()).any(|window| window == P256),
            _ => true,
        }
}
