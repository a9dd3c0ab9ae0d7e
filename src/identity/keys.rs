//! Keys for verifying tokens, and a cache of the tokens that they verified.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use quick_cache::sync::Cache;

use super::invalid_token;
use super::jwk_set;
use super::jwt::{ExpectedClaims, Token, VerifiedClaims};
use super::verifier::Verifier;
use crate::domain::Refusal;

/// Verified tokens that are cached.
const CACHED_TOKENS: usize = 50_000;

/// Most keys that one token is tried with: those with the same `kid`, or all if it has none.
const TRIED_KEYS: usize = 4;

/// Immutable keys. A changed set is a new value, so that its cache of verified tokens starts empty.
pub struct Keys {
    usable: Vec<Key>,
    /// What a set had besides them, in words; `None` for the one key of the settings.
    left_out: Option<String>,
    expected: ExpectedClaims,
    verified: Cache<TokenHash, VerifiedClaims>,
    keyed: RandomState,
}

/// What a cached token is known by: a token is a secret, so the cache has none. 128 bits of `SipHash` with a
/// key that is chosen at random, so that no caller can find another token with the same. SHA-256 would cost
/// more than all else that identity does (`cargo bench --bench instructions`).
type TokenHash = [u64; 2];

/// A key, with its `kid` in a set.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) verifier: Verifier,
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
    pub fn single(verifier: Verifier, expected: ExpectedClaims) -> Self {
        Self::new(vec![Key { id: None, verifier }], None, expected)
    }

    /// Parses a JWK set (RFC 7517 section 5). Keys that cannot verify tokens are left out.
    ///
    /// # Errors
    ///
    /// If the text is not a JWK set, or it holds no usable key. The text quotes nothing of the set.
    pub fn from_set(set: &[u8], expected: &ExpectedClaims) -> Result<Self, String> {
        let (keys, left_out) = jwk_set::parse(set)?;
        Ok(Self::new(keys, Some(left_out.to_string()), expected.clone()))
    }

    fn new(usable: Vec<Key>, left_out: Option<String>, expected: ExpectedClaims) -> Self {
        let (verified, keyed) = (Cache::new(CACHED_TOKENS), RandomState::new());
        Self { usable, left_out, expected, verified, keyed }
    }

    /// Returns the `kid` of each key that has one.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.usable.iter().filter_map(|key| key.id.as_deref())
    }

    /// Returns how many keys of the set were left out, and why, in words.
    pub fn left_out(&self) -> &str {
        self.left_out.as_deref().unwrap_or_default()
    }

    fn hash(&self, token: &str) -> TokenHash {
        [0_u8, 1].map(|half| self.keyed.hash_one((half, token)))
    }

    /// Checks a token.
    pub fn check(&self, token: &str) -> Check {
        let hash = self.hash(token);
        if let Some(verified) = self.verified.get(&hash) {
            if SystemTime::now() < verified.expires_at {
                return Check::Done(Ok(verified));
            }
            self.verified.remove(&hash);
        }
        let verified = match Token::parse(token) {
            Ok(parsed) if self.named_by(&parsed).next().is_none() => return Check::UnknownKey,
            Ok(parsed) => self.verify(&parsed),
            Err(malformed) => Err(malformed),
        };
        if let Ok(verified) = verified {
            self.verified.insert(hash, verified);
        }
        Check::Done(verified)
    }

    /// Returns the keys that a token names: without `kid`, all of them.
    fn named_by(&self, token: &Token<'_>) -> impl Iterator<Item = &Key> {
        let id = token.key_id().filter(|_| self.left_out.is_some());
        self.usable.iter().filter(move |key| id.is_none_or(|id| key.id.as_deref() == Some(id)))
    }

    /// Verifies a token with the keys that it names and that fit its `alg`.
    fn verify(&self, token: &Token<'_>) -> Result<VerifiedClaims, Refusal> {
        let mut fitting = self
            .named_by(token)
            .map(|key| &key.verifier)
            .filter(|verifier| verifier.algorithm() == token.algorithm())
            .take(TRIED_KEYS)
            .peekable();
        if fitting.peek().is_none() {
            return Err(invalid_token("the token is signed with another algorithm"));
        }
        if !fitting.any(|verifier| verifier.verify(token)) {
            return Err(invalid_token("the token's signature does not match"));
        }
        token.check_claims(&self.expected)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.usable.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::identity::jwt::Secret;

    #[test]
    fn a_token_is_known_by_a_hash_that_nobody_can_predict() {
        let secret = Secret::from_file_contents(vec![b'a'; 32]).unwrap();
        let keys = || Keys::single(Verifier::with_secret(&secret), ExpectedClaims::default());
        let (one, other) = (keys(), keys());
        assert_eq!(one.hash("token"), one.hash("token"));
        let hashes: HashSet<TokenHash> = (0..1000)
            .flat_map(|number| [&one, &other].map(|keys| keys.hash(&format!("token {number}"))))
            .collect();
        assert_eq!(hashes.len(), 2000);
        assert!(hashes.iter().all(|[first, second]| first != second), "the halves differ");
    }
}
