//! Keys for verifying tokens, and a cache of the tokens that they verified.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use jsonwebtoken::jwk::{CommonParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Header, decode_header};
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::jwt::{ExpectedClaims, VerifiedClaims, Verifier};
use super::sha256;
use crate::domain::{Flaw, Refusal};

/// Verified tokens that are cached, at about 200 bytes each.
const CACHED_TOKENS: usize = 50_000;

/// Most keys of a set. A larger set is refused.
const KEYS_MAX: usize = 1000;

/// Immutable keys. A changed set is a new value, so that its cache of verified tokens starts empty.
pub struct Keys {
    keys: Vec<Key>,
    /// By the token's SHA-256, since a token is a secret and may be long.
    verified: Cache<[u8; SHA256_OUTPUT_LEN], VerifiedClaims>,
}

struct Key {
    /// Its `kid` in the set; `None` for the one key of the settings.
    id: Option<String>,
    verifier: Verifier,
}

/// Result of checking a token.
#[derive(Debug)]
pub enum Check {
    /// The token is valid, or is refused.
    Done(Result<VerifiedClaims, Refusal>),
    /// The token names an unknown key.
    UnknownKey,
}

impl Keys {
    /// Creates it for the one key of the settings, whatever `kid` a token has.
    pub fn single(verifier: Verifier) -> Self {
        Self::new(vec![Key { id: None, verifier }])
    }

    /// Parses a JWK set (RFC 7517 section 5). Keys that cannot verify tokens are skipped.
    ///
    /// # Errors
    ///
    /// If the text is not a JWK set.
    pub fn from_set(set: &[u8], expected: &ExpectedClaims) -> Result<Self, &'static str> {
        let set: Set = serde_json::from_slice(set).map_err(|_| "it is not a JWK set")?;
        if set.keys.len() > KEYS_MAX {
            return Err("it has more than 1000 keys");
        }
        let keys = set.keys.into_iter().filter_map(|jwk| {
            let jwk: Jwk = serde_json::from_value(jwk).ok()?;
            let verifier =
                Verifier::with_jwk(&jwk, expected).filter(|_| may_verify(&jwk.common))?;
            Some(Key { id: Some(jwk.common.key_id.unwrap_or_default()), verifier })
        });
        Ok(Self::new(keys.collect()))
    }

    fn new(keys: Vec<Key>) -> Self {
        Self { keys, verified: Cache::new(CACHED_TOKENS) }
    }

    /// Returns the `kid` of each key.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.id.as_deref())
    }

    /// Checks a token.
    pub fn check(&self, token: &str) -> Check {
        let digest = sha256(token);
        if let Some(verified) = self.verified.get(&digest) {
            if SystemTime::now() < verified.expires_at {
                return Check::Done(Ok(verified));
            }
            self.verified.remove(&digest);
        }
        let Some(key) = self.key_for(token) else { return Check::UnknownKey };
        let verified = key.and_then(|key| key.verifier.verify(token));
        if let Ok(verified) = verified {
            self.verified.insert(digest, verified);
        }
        Check::Done(verified)
    }

    /// Returns the key that a token names by `kid` and `alg`; `alg` only chooses among keys, each of
    /// which accepts one algorithm. A token without `kid` is checked with the only key there is.
    fn key_for(&self, token: &str) -> Option<Result<&Key, Refusal>> {
        const AMBIGUOUS: Refusal = Refusal::CredentialsInvalid(Flaw::Token(
            "the token names no key, and there are several",
        ));
        if let [key @ Key { id: None, .. }] = &self.keys[..] {
            return Some(Ok(key));
        }
        let Ok(Header { kid, alg, .. }) = decode_header(token) else {
            return Some(Err(Refusal::CredentialsInvalid(Flaw::Token("the token is malformed"))));
        };
        let Some(kid) = kid else {
            return Some(if let [key] = &self.keys[..] { Ok(key) } else { Err(AMBIGUOUS) });
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(&kid)).peekable();
        let first = *named.peek()?;
        Some(Ok(named.find(|key| key.verifier.algorithm() == Some(alg)).unwrap_or(first)))
    }
}

/// Returns whether a key may verify signatures (`use` and `key_ops`, RFC 7517 sections 4.2 and 4.3).
fn may_verify(jwk: &CommonParameters) -> bool {
    jwk.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && jwk.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.keys.len()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}
