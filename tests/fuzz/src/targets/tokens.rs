//! Bearer tokens.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use markread::domain::UserId;
use markread::identity::jwt::{ExpectedClaims, Secret};
use markread::identity::keys::{Check, Keys};
use markread::identity::verifier::Verifier;
use serde_json::Value;

use crate::input::halves;

/// The secret of the corpus's tokens.
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

const LEEWAY_SECONDS: f64 = 30.0;

/// Keys are new for each input: otherwise a token that is cached would be accepted without a look.
fn keys(issuer: Option<&str>) -> Keys {
    let secret = Secret::from_file_contents(SECRET.to_vec()).unwrap();
    let expected = ExpectedClaims { issuer: issuer.map(str::to_owned), audience: None };
    Keys::single(Verifier::with_secret(&secret), expected)
}

fn accepted(keys: &Keys, token: &str) -> Option<UserId> {
    match keys.check(token) {
        Check::Done(Ok(claims)) => Some(claims.user),
        Check::Done(Err(_)) | Check::UnknownKey => None,
    }
}

/// A token as it comes: it is accepted only if `jsonwebtoken` accepts it, with the same user.
pub(super) fn jwt(data: &[u8]) {
    static PLAIN: LazyLock<DecodingKey> = LazyLock::new(|| DecodingKey::from_secret(SECRET));
    let Ok(token) = std::str::from_utf8(data) else { return };
    let keys = keys(None);
    let user = accepted(&keys, token);
    assert_eq!(accepted(&keys, token), user, "the second time");
    let Some(user) = user else { return };
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims = HashSet::from(["exp".to_owned()]);
    (validation.leeway, validation.validate_nbf, validation.validate_aud) = (60, true, false);
    let decoded = decode::<Value>(token, &PLAIN, &validation).unwrap();
    assert_eq!(decoded.claims["sub"].as_str(), Some(user.to_string().as_str()));
}

/// A header and claims, which are signed: what is accepted has valid claims, and what plainly has is accepted.
pub(super) fn claims(data: &[u8]) {
    let (head, claims) = halves(data);
    let text = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    let token = format!("{text}.{signature}");
    let keys = keys(Some("https://issuer.example"));
    let user = accepted(&keys, &token);
    let forged = URL_SAFE_NO_PAD.encode(hmac::sign(&key, b"another text"));
    assert_eq!(accepted(&keys, &format!("{text}.{forged}")), None, "another signature");
    let parsed = [head, claims].map(serde_json::from_slice::<Value>);
    let [Ok(head), Ok(claims)] = parsed else { return };
    if let Some(user) = user {
        assert!(is_valid(&head, &claims, user), "accepted as {user}: {head} {claims}");
    }
    // The plainest token is accepted.
    let (sub, exp) = (&claims["sub"], &claims["exp"]);
    let plain = format!(r#"{{"sub":{sub},"exp":{exp},"iss":"https://issuer.example"}}"#);
    let lasts = exp.as_u64().is_some_and(|exp| (4_000_000_000..1 << 40).contains(&exp));
    if data == [br#"{"alg":"HS256"}"#, &b"\n---\n"[..], plain.as_bytes()].concat() && lasts {
        let id = sub.as_str().and_then(|sub| sub.parse::<UserId>().ok());
        assert_eq!(user, id, "{plain}");
    }
}

fn is_valid(head: &Value, claims: &Value, user: UserId) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let time = |name: &str| claims[name].as_f64();
    head["alg"] == "HS256"
        && head.get("crit").is_none()
        && time("exp").is_some_and(|exp| exp + LEEWAY_SECONDS > now - 5.0)
        && (claims["nbf"].is_null() || time("nbf").is_some_and(|nbf| nbf - LEEWAY_SECONDS <= now))
        && claims["iss"] == "https://issuer.example"
        && claims["sub"].as_str() == Some(&user.to_string())
}
