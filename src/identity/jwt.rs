//! Bearer tokens: JWTs (RFC 7519) whose `sub` is the reader's user ID in decimal.
//!
//! They are parsed here rather than by `jsonwebtoken`, which ignores `crit`, accepts a list in `iss`, and
//! refuses times that it cannot count to. Signatures are verified by [`super::verifier`].

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::invalid_token;
use crate::domain::{Refusal, UserId};
use crate::files::without_newline;

/// Leeway for `exp` and `nbf`, in seconds: how far clocks may differ.
const LEEWAY_SECONDS: f64 = 30.0;

/// The last second of the year 9999. Later times count as this one, which clocks and timers can represent.
const END_OF_TIME_SECONDS: f64 = 253_402_300_799.0;

/// Shortest HS256 secret, in bytes (RFC 7518 section 3.2: as long as the hash).
pub const SECRET_MIN_BYTES: usize = 32;

/// A shared secret for HS256.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Creates it from a file's contents, without one newline (LF or CRLF) at their end.
    ///
    /// # Errors
    ///
    /// If it is shorter than [`SECRET_MIN_BYTES`]: the problem, as the end of a sentence.
    pub fn from_file_contents(contents: Vec<u8>) -> Result<Self, String> {
        let contents = without_newline(contents);
        let length = contents.len();
        if length < SECRET_MIN_BYTES {
            return Err(format!(
                "contains a secret of {length} bytes: HS256 needs at least {SECRET_MIN_BYTES}"
            ));
        }
        Ok(Self(contents))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Claims that are checked besides the signature and the times.
#[derive(Clone, Debug, Default)]
pub struct ExpectedClaims {
    /// `iss`, if set.
    pub issuer: Option<String>,
    /// `aud`, if set.
    pub audience: Option<String>,
}

/// The claims of a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedClaims {
    /// The user in `sub`.
    pub user: UserId,
    /// When it expires, leeway included.
    pub expires_at: SystemTime,
}

/// A token in the compact form (RFC 7515 section 7.1), whose signature is not verified yet.
pub(super) struct Token<'a> {
    head: Head,
    /// What the signature covers.
    pub(super) signed: &'a str,
    pub(super) signature: &'a str,
    claims: &'a str,
}

#[derive(Deserialize)]
struct Head {
    alg: Algorithm,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// Returns true for a member of any value, null included.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// The claims that are checked. Each is parsed only when it is checked, so that an unusual one of another
/// type does not make the token malformed. A claim that is null counts as absent.
#[derive(Deserialize)]
struct Claims {
    exp: Option<Box<RawValue>>,
    nbf: Option<Box<RawValue>>,
    iss: Option<Box<RawValue>>,
    aud: Option<Box<RawValue>>,
    sub: Option<Box<RawValue>>,
}

const MALFORMED: Refusal = invalid_token("the token is malformed");
const MISSING_CLAIM: Refusal = invalid_token("the token lacks a required claim");

impl<'a> Token<'a> {
    /// Parses a token.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`] if it is malformed, or its header has `crit`: that names extensions
    /// which must be understood (RFC 7515 section 4.1.11), and none is.
    pub(super) fn parse(text: &'a str) -> Result<Self, Refusal> {
        let (signed, signature) = text.rsplit_once('.').ok_or(MALFORMED)?;
        let (head, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let head: Head = parse_part(head)?;
        if head.crit {
            return Err(invalid_token(
                "the token's header has crit, and no extension is supported",
            ));
        }
        Ok(Self { head, signed, signature, claims })
    }

    /// Returns the `kid` of its header.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.head.kid.as_deref()
    }

    /// Returns the `alg` of its header, which only chooses among keys.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.head.alg
    }

    /// Checks the claims. The signature must have been verified.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`] if one is invalid, [`Refusal::UserContextRequired`] if all others
    /// are valid, but `sub` is not a user ID.
    pub(super) fn check_claims(
        &self,
        expected: &ExpectedClaims,
    ) -> Result<VerifiedClaims, Refusal> {
        let Claims { exp, nbf, iss, aud, sub } = parse_part(self.claims)?;
        let now = SystemTime::now();
        let expires_at = time(&exp.ok_or(MISSING_CLAIM)?, LEEWAY_SECONDS)?;
        if expires_at <= now {
            return Err(invalid_token("the token has expired"));
        }
        if let Some(nbf) = nbf
            && time(&nbf, -LEEWAY_SECONDS)? > now
        {
            return Err(invalid_token("the token is not valid yet"));
        }
        expected.check(iss.as_deref(), aud.as_deref())?;
        let user = sub.and_then(|sub| parse::<String>(&sub)?.parse().ok());
        let user = user.ok_or(Refusal::UserContextRequired("the token's sub is not a user ID"))?;
        Ok(VerifiedClaims { user, expires_at })
    }
}

impl ExpectedClaims {
    /// Checks `iss`, which is one string (RFC 7519 section 4.1.1), and `aud`, which is one or a list.
    fn check(&self, iss: Option<&RawValue>, aud: Option<&RawValue>) -> Result<(), Refusal> {
        const NOT_TEXT: Refusal = invalid_token("the token's iss is not text");
        let issuer = iss.map(|iss| parse::<String>(iss).ok_or(NOT_TEXT)).transpose()?;
        if let Some(expected) = &self.issuer
            && issuer.ok_or(MISSING_CLAIM)? != *expected
        {
            return Err(invalid_token("the token has another issuer"));
        }
        let Some(expected) = &self.audience else { return Ok(()) };
        let aud = aud.ok_or(MISSING_CLAIM)?;
        let audiences = parse(aud).or_else(|| parse::<String>(aud).map(|one| vec![one]));
        match audiences {
            Some(audiences) if audiences.contains(expected) => Ok(()),
            _ => Err(invalid_token("the token is for another audience")),
        }
    }
}

fn parse_part<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED)?;
    serde_json::from_slice(&json).map_err(|_| MALFORMED)
}

fn parse<T: DeserializeOwned>(claim: &RawValue) -> Option<T> {
    serde_json::from_str(claim.get()).ok()
}

/// Parses a `NumericDate` (RFC 7519 section 2): seconds since 1970, which may have a fraction and be of any
/// size. Adds the leeway.
fn time(date: &RawValue, leeway_seconds: f64) -> Result<SystemTime, Refusal> {
    // serde_json refuses numbers beyond a double's range. Here they are infinite.
    let is_number =
        |text: &&str| text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let seconds = Some(date.get()).filter(is_number).and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.ok_or(MALFORMED)? + leeway_seconds;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds.clamp(0.0, END_OF_TIME_SECONDS)))
}

#[derive(Serialize)]
struct IssuedClaims {
    sub: String,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
}

/// Signs a token for development with HS256: `markread token`.
///
/// # Errors
///
/// If the clock or the crypto backend fails.
pub fn issue(
    user: UserId,
    secret: &Secret,
    ttl: Duration,
    expected: ExpectedClaims,
) -> Result<String, Box<dyn std::error::Error>> {
    let iat = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let ExpectedClaims { issuer: iss, audience: aud } = expected;
    let claims = IssuedClaims {
        sub: user.to_string(),
        iat,
        exp: iat.saturating_add(ttl.as_secs()),
        iss,
        aud,
    };
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret.0))?)
}
