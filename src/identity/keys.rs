//! Keys for verifying tokens, and a cache of the tokens that they verified.

use std::fmt;
use std::time::SystemTime;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::invalid_token;
use super::jwk_set;
use super::jwt::{ExpectedClaims, Token, VerifiedClaims};
use super::verifier::Verifier;
use crate::domain::Refusal;

/// Verified tokens that are cached, and the most memory for them, in bytes.
const CACHED_TOKENS: usize = 50_000;
const CACHE_MAX_BYTES: u64 = 20 * 1024 * 1024;

/// Size of a cached token without its text, roughly.
const CACHED_TOKEN_BYTES: u64 = 160;

/// Most keys that one token is tried with: those with the same `kid`, or all if it has none.
const TRIED_KEYS: usize = 4;

/// Immutable keys. A changed set is a new value, so that its cache of verified tokens starts empty.
pub struct Keys {
    usable: Vec<Key>,
    /// What a set had besides them, in words; `None` for the one key of the settings.
    left_out: Option<String>,
    expected: ExpectedClaims,
    /// By the whole token: a digest of it that no caller can forge would cost more than all else that
    /// identity does (`cargo bench --bench instructions`).
    verified: Cache<Box<str>, VerifiedClaims, WeighToken>,
}

/// Weighs cached tokens, in bytes.
#[derive(Clone)]
struct WeighToken;

impl Weighter<Box<str>, VerifiedClaims> for WeighToken {
    fn weight(&self, token: &Box<str>, _: &VerifiedClaims) -> u64 {
        u64::try_from(token.len()).unwrap_or(u64::MAX).saturating_add(CACHED_TOKEN_BYTES)
    }
}

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
        let verified = Cache::with_weighter(CACHED_TOKENS, CACHE_MAX_BYTES, WeighToken);
        Self { usable, left_out, expected, verified }
    }

    /// Returns the `kid` of each key that has one.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.usable.iter().filter_map(|key| key.id.as_deref())
    }

    /// Returns how many keys of the set were left out, and why, in words.
    pub fn left_out(&self) -> &str {
        self.left_out.as_deref().unwrap_or_default()
    }

    /// Checks a token.
    pub fn check(&self, token: &str) -> Check {
        if let Some(verified) = self.verified.get(token) {
            if SystemTime::now() < verified.expires_at {
                return Check::Done(Ok(verified));
            }
            self.verified.remove(token);
        }
        let verified = match Token::parse(token) {
            Ok(parsed) if self.named_by(&parsed).next().is_none() => return Check::UnknownKey,
            Ok(parsed) => self.verify(&parsed),
            Err(malformed) => Err(malformed),
        };
        if let Ok(verified) = verified {
            self.verified.insert(token.into(), verified);
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
    use super::*;
    use crate::identity::jwt::Secret;

    #[test]
    fn long_tokens_do_not_enlarge_the_cache() {
        let secret = Secret::from_file_contents(vec![b'a'; 32]).unwrap();
        let keys = Keys::single(Verifier::with_secret(&secret), ExpectedClaims::default());
        let claims = VerifiedClaims {
            user: 1.try_into().unwrap(),
            expires_at: SystemTime::now() + std::time::Duration::from_secs(60),
        };
        for number in 0..4000 {
            keys.verified.insert(format!("{number:016384}").into(), claims);
        }
        let bytes: usize = keys.verified.iter().map(|(token, _)| token.len()).sum();
        assert!(bytes > 8 << 20 && bytes <= 20 << 20, "{bytes}");
    }
}
