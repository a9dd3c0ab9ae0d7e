//! Bearer tokens: JWTs (RFC 7519) whose `sub` is the reader's user ID in decimal.
//!
//! The accepted algorithms follow from the key, never from a token's header.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::domain::{Flaw, Refusal, UserId};
use crate::files::without_newline;

/// Leeway for `exp` and `nbf`, in seconds: how far clocks may differ.
const LEEWAY_SECONDS: u64 = 30;

/// Shortest HS256 secret, in bytes (RFC 7518 section 3.2: as long as the hash).
pub const SECRET_MIN_BYTES: usize = 32;

/// A shared secret for HS256.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Creates it from a file's contents, without one newline at their end.
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
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Verifies tokens with one key.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// Claims that are checked besides the signature and the times.
#[derive(Clone, Debug, Default)]
pub struct ExpectedClaims {
    /// `iss`, if set.
    pub issuer: Option<String>,
    /// `aud`, if set.
    pub audience: Option<String>,
}

impl Verifier {
    /// Creates a verifier of HS256 tokens.
    pub fn with_secret(secret: &Secret, expected: &ExpectedClaims) -> Self {
        Self::new(DecodingKey::from_secret(&secret.0), Algorithm::HS256, expected)
    }

    /// Creates a verifier with a PEM public key, for its one algorithm: RS256 for RSA, ES256 for P-256,
    /// `EdDSA` for Ed25519.
    ///
    /// # Errors
    ///
    /// If the text is not such a key: the problem, as the end of a sentence.
    pub fn with_public_key(pem: &[u8], expected: &ExpectedClaims) -> Result<Self, String> {
        type FromPem = fn(&[u8]) -> Result<DecodingKey, Error>;
        let kinds: [(FromPem, Algorithm); 3] = [
            (DecodingKey::from_rsa_pem, Algorithm::RS256),
            (DecodingKey::from_ec_pem, Algorithm::ES256),
            (DecodingKey::from_ed_pem, Algorithm::EdDSA),
        ];
        let (key, algorithm) = kinds
            .into_iter()
            .find_map(|(from_pem, algorithm)| Some((from_pem(pem).ok()?, algorithm)))
            .filter(|(_, algorithm)| can_verify(pem, *algorithm))
            .ok_or("contains no PEM public key of RSA (at least 2048 bits), P-256 or Ed25519")?;
        Ok(Self::new(key, algorithm, expected))
    }

    /// Creates a verifier with a key of a JWK set (RFC 7517), for its one algorithm: RS256 for RSA, ES256
    /// for P-256, `EdDSA` for Ed25519. Returns `None` if the key is for something else.
    pub fn with_jwk(jwk: &Jwk, expected: &ExpectedClaims) -> Option<Self> {
        let (algorithm, name) = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if rsa_bytes(&rsa.n)? >= RSA_MIN_BYTES => {
                (Algorithm::RS256, KeyAlgorithm::RS256)
            }
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        if jwk.common.key_algorithm.is_some_and(|stated| stated != name) {
            return None;
        }
        Some(Self::new(DecodingKey::from_jwk(jwk).ok()?, algorithm, expected))
    }

    /// Returns the one algorithm that it accepts.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.validation.algorithms.first().copied()
    }

    fn new(key: DecodingKey, algorithm: Algorithm, expected: &ExpectedClaims) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = expected.audience.is_some();
        if let Some(audience) = &expected.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &expected.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Self { key, validation }
    }

    /// Verifies a token.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`] if the token is invalid, [`Refusal::UserContextRequired`] if it
    /// is valid, but its `sub` is not a user ID.
    pub fn verify(&self, token: &str) -> Result<VerifiedClaims, Refusal> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| Refusal::CredentialsInvalid(Flaw::Token(problem(&error))))?
            .claims;
        let user = claims
            .sub
            .as_str()
            .and_then(|sub| sub.parse().ok())
            .ok_or(Refusal::UserContextRequired("the token's sub is not a user ID"))?;
        let expiry = Duration::try_from_secs_f64(claims.exp).unwrap_or_default();
        let expires_at = UNIX_EPOCH.checked_add(expiry + Duration::from_secs(LEEWAY_SECONDS));
        Ok(VerifiedClaims { user, expires_at: expires_at.unwrap_or(UNIX_EPOCH) })
    }
}

/// The claims of a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedClaims {
    /// The user in `sub`.
    pub user: UserId,
    /// When it expires, leeway included.
    pub expires_at: SystemTime,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("validation", &self.validation).finish_non_exhaustive()
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
            Algorithm::RS256 => der.len() > RSA_MIN_BYTES,
            Algorithm::ES256 => der.windows(P256.len()).any(|window| window == P256),
            _ => true,
        }
}

/// Shortest RSA modulus, in bytes (RFC 7518 section 3.3).
const RSA_MIN_BYTES: usize = 2048 / 8;

/// Returns the length in bytes of a modulus in base64url (RFC 7518 section 6.3.1.1: no leading zero bytes).
fn rsa_bytes(modulus: &str) -> Option<usize> {
    Some(URL_SAFE_NO_PAD.decode(modulus).ok()?.iter().skip_while(|byte| **byte == 0).count())
}

#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970, which may have a fraction (RFC 7519 section 2, `NumericDate`).
    exp: f64,
    /// Of any type, since a valid token without a user ID is refused in another way than an invalid one.
    #[serde(default)]
    sub: serde_json::Value,
}

fn problem(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token has another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks a required claim",
        ErrorKind::InvalidSignature => "the token's signature does not match",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "the token is signed with another algorithm"
        }
        _ => "the token is malformed",
    }
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
