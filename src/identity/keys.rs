//! The keys that tokens are verified with, and the tokens that were.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use jsonwebtoken::jwk::{CommonParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Header, decode_header};
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::jwt::{Expected, Verified, Verifier};
use super::sha256;
use crate::edge::answer::{Flaw, Refusal};

/// How many verified tokens are remembered, at about 200 bytes each.
const REMEMBERED_TOKENS: usize = 50_000;

/// The most keys of a set that are looked at; more is no key set.
const KEYS_MAX: usize = 1000;

/// Keys that do not change. Other keys are another value: so whatever a token was verified with is
/// forgotten together with its keys.
pub struct Keys {
    keys: Vec<Key>,
    /// By the token's SHA-256: a token itself is a secret, and may be long.
    verified: Cache<[u8; SHA256_OUTPUT_LEN], Verified>,
}

struct Key {
    /// Its name in the set; none where the one key is configured by itself.
    id: Option<String>,
    verifier: Verifier,
}

/// Whether a token can be verified with these keys.
#[derive(Debug)]
pub enum Check {
    /// It was: it holds or it does not.
    Done(Result<Verified, Refusal>),
    /// It names a key that is not among these.
    UnknownKey,
}

impl Keys {
    /// The one key that is configured, whatever name a token gives it.
    pub fn only(verifier: Verifier) -> Self {
        Self::new(vec![Key { id: None, verifier }])
    }

    /// The keys of a JWK set (RFC 7517 section 5) that can verify tokens. Others are passed over.
    ///
    /// # Errors
    ///
    /// When the text is no JWK set.
    pub fn of_set(set: &[u8], expected: &Expected) -> Result<Self, &'static str> {
        let set: Set = serde_json::from_slice(set).map_err(|_| "it is no JWK set")?;
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
        Self { keys, verified: Cache::new(REMEMBERED_TOKENS) }
    }

    /// The names of the keys that have one.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.id.as_deref())
    }

    /// Whom a token was given to.
    pub fn check(&self, token: &str) -> Check {
        let digest = sha256(token);
        if let Some(verified) = self.verified.get(&digest) {
            if SystemTime::now() < verified.until {
                return Check::Done(Ok(verified));
            }
            self.verified.remove(&digest);
        }
        let Some(key) = self.key_of(token) else { return Check::UnknownKey };
        let verified = key.and_then(|key| key.verifier.verify(token));
        if let Ok(verified) = verified {
            self.verified.insert(digest, verified);
        }
        Check::Done(verified)
    }

    /// The key that a token names, by its ID and algorithm: the algorithm only chooses among keys,
    /// each of which has its own. A token that names none means the only one there is.
    fn key_of(&self, token: &str) -> Option<Result<&Key, Refusal>> {
        const NONE: Refusal = Refusal::CredentialsInvalid(Flaw::Token(
            "the token names no key, and there are several",
        ));
        if let [key @ Key { id: None, .. }] = &self.keys[..] {
            return Some(Ok(key));
        }
        let Ok(Header { kid, alg, .. }) = decode_header(token) else {
            return Some(Err(Refusal::CredentialsInvalid(Flaw::Token("the token is malformed"))));
        };
        let Some(kid) = kid else {
            return Some(if let [key] = &self.keys[..] { Ok(key) } else { Err(NONE) });
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(&kid)).peekable();
        let first = *named.peek()?;
        Some(Ok(named.find(|key| key.verifier.algorithm() == Some(alg)).unwrap_or(first)))
    }
}

/// Whether a key is for signatures, as far as it says: RFC 7517 sections 4.2 and 4.3.
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
