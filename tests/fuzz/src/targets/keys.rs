//! Files and sets of keys.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use markread::files::{certificates, private_key, without_newline};
use markread::identity::jwt::{ExpectedClaims, SECRET_MIN_BYTES, Secret};
use markread::identity::keys::{Check, Keys};
use markread::identity::oauth1::OAuth1;
use markread::identity::verifier::Verifier;
use serde_json::Value;

use crate::input::assert_loggable;

/// A JWK set: its keys are those in it, none of them accepts a token that nobody signed, and what is wrong
/// with it quotes nothing.
pub(super) fn jwk_set(data: &[u8]) {
    let keys = match Keys::from_set(data, &ExpectedClaims::default()) {
        Ok(keys) => keys,
        Err(problem) => return assert_loggable(&problem),
    };
    assert_loggable(keys.left_out());
    let set: Value = serde_json::from_slice(data).unwrap();
    let given = set["keys"].as_array().unwrap();
    assert!((1..=1000).contains(&given.len()));
    let kids: Vec<_> = given.iter().filter_map(|key| key["kid"].as_str()).collect();
    assert!(keys.ids().all(|id| kids.contains(&id)));
    for algorithm in ["HS256", "RS256", "ES256", "EdDSA", "none"] {
        let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}"}}"#));
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"7","exp":4000000000}"#);
        for signature in ["", "AAAA"] {
            let token = format!("{head}.{claims}.{signature}");
            assert!(!matches!(keys.check(&token), Check::Done(Ok(_))), "{token}");
        }
    }
}

/// A file as a key, as certificates and as a secret.
pub(super) fn key_files(data: &[u8]) {
    match Verifier::with_public_key(data) {
        Ok(_) => {
            let text = String::from_utf8_lossy(data);
            assert!(text.contains("PUBLIC KEY-----"), "no public key: {text}");
            assert!(private_key(data).is_err(), "a private key is there too: {text}");
        }
        Err(problem) => assert_loggable(&problem),
    }
    assert!(certificates(data).is_none_or(|certificates| !certificates.is_empty()));
    if let Err(problem) = private_key(data) {
        assert_loggable(&problem);
    }
    match Secret::from_file_contents(data.to_vec()) {
        Ok(secret) => {
            assert!(without_newline(data.to_vec()).len() >= SECRET_MIN_BYTES);
            assert_eq!(format!("{secret:?}"), "Secret(…)");
        }
        Err(problem) => assert_loggable(&problem),
    }
}

/// The file of OAuth 1.0a's credentials: what is wrong with it quotes nothing of it.
pub(super) fn credentials_file(data: &[u8]) {
    if let Err(problem) = OAuth1::new(Path::new("credentials"), data.to_vec(), Vec::new()) {
        assert_loggable(&problem);
        assert!(!problem.contains("hush"), "a secret is quoted: {problem}");
    }
}
