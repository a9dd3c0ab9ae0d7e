//! JWK sets (RFC 7517): the keys that can verify tokens, and why others cannot.

use std::fmt;
use std::iter::repeat_n;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations,
    PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::keys::Key;
use super::verifier::{RSA_BITS, Verifier};

/// Most keys of a set. A larger set is refused.
const KEYS_MAX: usize = 1000;

/// Length of a coordinate of P-256, in bytes (RFC 7518 section 6.2.1.2).
const P256_BYTES: usize = 32;

/// The first byte of a point whose coordinates follow (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Why a key cannot verify tokens, in words.
const KIND: &str = "malformed or of another kind than RSA, P-256 and Ed25519";
const SIZE: &str = "RSA of fewer than 2048 or more than 8192 bits";
const ALGORITHM: &str = "for another algorithm than RS256, ES256 and EdDSA";
const PURPOSE: &str = "not for verifying signatures (use, key_ops)";

/// How many keys of a set were left out, by the reason.
pub(super) struct LeftOut([(&'static str, usize); 4]);

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Parses a set. Keys that cannot verify tokens are left out.
///
/// # Errors
///
/// If the text is not a JWK set, or it holds no usable key. The text quotes nothing of the set.
pub(super) fn parse(set: &[u8]) -> Result<(Vec<Key>, LeftOut), String> {
    let Set { keys } = serde_json::from_slice(set).map_err(|_| "it is not a JWK set")?;
    if keys.is_empty() {
        return Err("the set is empty".to_owned());
    }
    if keys.len() > KEYS_MAX {
        return Err(format!("the set has more than {KEYS_MAX} keys"));
    }
    let mut left_out = LeftOut::new();
    let usable: Vec<_> = keys
        .into_iter()
        .filter_map(|jwk| key(jwk).map_err(|reason| left_out.count(reason)).ok())
        .collect();
    if usable.is_empty() {
        return Err(format!("the set has no usable key: {left_out}"));
    }
    Ok((usable, left_out))
}

fn key(jwk: Value) -> Result<Key, &'static str> {
    let Jwk { common, algorithm } = serde_json::from_value(jwk).map_err(|_| KIND)?;
    let (verifier, name) = match &algorithm {
        AlgorithmParameters::RSA(rsa) => {
            (rsa_verifier(&integer(&rsa.n)?, &integer(&rsa.e)?), KeyAlgorithm::RS256)
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (p256_verifier(&ec.x, &ec.y), KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (ed25519_verifier(&pair.x), KeyAlgorithm::EdDSA)
        }
        _ => return Err(KIND),
    };
    if !may_verify(&common) {
        return Err(PURPOSE);
    }
    if common.key_algorithm.is_some_and(|stated| stated != name) {
        return Err(ALGORITHM);
    }
    Ok(Key { id: common.key_id, verifier: verifier? })
}

/// Returns whether a key may verify signatures (`use` and `key_ops`, RFC 7517 sections 4.2 and 4.3).
fn may_verify(jwk: &CommonParameters) -> bool {
    jwk.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && jwk.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify))
}

fn rsa_verifier(modulus: &[u8], exponent: &[u8]) -> Result<Verifier, &'static str> {
    let unused = modulus.first().map_or(0, |first| first.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(usize::try_from(unused).unwrap_or_default());
    if !RSA_BITS.contains(&bits) {
        return Err(SIZE);
    }
    let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
    Ok(Verifier::new(key, Algorithm::RS256))
}

fn p256_verifier(x: &str, y: &str) -> Result<Verifier, &'static str> {
    let point = [&[UNCOMPRESSED][..], &coordinate(x)?, &coordinate(y)?].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| KIND)?;
    Ok(Verifier::new(DecodingKey::from_ec_der(&point), Algorithm::ES256))
}

fn ed25519_verifier(x: &str) -> Result<Verifier, &'static str> {
    let key = URL_SAFE_NO_PAD.decode(x).map_err(|_| KIND)?;
    ParsedPublicKey::new(&ED25519, &key).map_err(|_| KIND)?;
    Ok(Verifier::new(DecodingKey::from_ed_der(&key), Algorithm::EdDSA))
}

/// Decodes an integer without leading zero bytes. RFC 7518 section 2 has none, but common libraries write
/// one where the first bit is set, and the crypto library refuses it.
fn integer(base64url: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = URL_SAFE_NO_PAD.decode(base64url).map_err(|_| KIND)?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Decodes a coordinate and brings it to its length: common libraries write it like any integer.
fn coordinate(base64url: &str) -> Result<Vec<u8>, &'static str> {
    let integer = integer(base64url)?;
    let missing = P256_BYTES.checked_sub(integer.len()).ok_or(KIND)?;
    Ok(repeat_n(0, missing).chain(integer).collect())
}

impl LeftOut {
    fn new() -> Self {
        Self([KIND, SIZE, ALGORITHM, PURPOSE].map(|reason| (reason, 0)))
    }

    fn count(&mut self, reason: &'static str) {
        for (known, count) in &mut self.0 {
            *count += usize::from(*known == reason);
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(reason, count)| format!("{count} {reason}")).collect();
        f.write_str(if counts.is_empty() { "none" } else { "" })?;
        f.write_str(&counts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About one key in 128 has a coordinate that starts with a zero byte.
    #[test]
    fn a_coordinate_has_its_length_however_it_is_written() {
        let whole: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&whole[..], Some(&whole)),
            (&whole[1..], Some(&whole)),
            (&[&[0], &whole[..]].concat(), Some(&whole)),
            (&[&[1], &whole[..]].concat(), None),
        ] {
            let written = coordinate(&URL_SAFE_NO_PAD.encode(bytes)).ok();
            assert_eq!(written.as_ref(), expected);
        }
        assert!(coordinate("not base64url!").is_err());
    }

    #[test]
    fn an_rsa_key_is_measured_in_bits() {
        let modulus = |bits: usize| {
            let mut bytes = vec![0xff; bits.div_ceil(8)];
            bytes[0] >>= bytes.len() * 8 - bits;
            bytes
        };
        for (bits, good) in [(2047, false), (2048, true), (2049, true), (8192, true), (8193, false)]
        {
            assert_eq!(rsa_verifier(&modulus(bits), &[1, 0, 1]).is_ok(), good, "{bits}");
        }
        assert!(rsa_verifier(&[], &[]).is_err());
    }
}
