//! Signatures of deliveries, and of a receiver's answer to a check: HMAC-SHA256.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Before the signatures of Twitter's header and of checks.
const SHA256_PREFIX: &str = "sha256=";

/// Before a secret of Standard Webhooks, in text.
const STANDARD_PREFIX: &str = "whsec_";

/// Length of a secret of Standard Webhooks, in bytes.
const STANDARD_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Length of a check's token: base64 of 32 bytes.
const CHECK_TOKEN_LENGTH: usize = 43;

/// Returns whether a text is a token of a check: 43 of the characters `A-Z a-z 0-9 - _`. A receiver signs nothing
/// else: whoever reaches it could have it sign a delivery of their own.
pub(super) fn is_check_token(text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() == CHECK_TOKEN_LENGTH && text.bytes().all(is_base64)
}

/// The secrets of a webhook.
pub(super) struct Secrets {
    /// The consumer secret, then the one before it while it rotates.
    consumer: Vec<hmac::Key>,
    /// Those of `webhook-signature`, the newest first.
    standard: Vec<hmac::Key>,
}

impl Secrets {
    /// Creates them from the consumer secret, the one before it while it rotates, and those of Standard
    /// Webhooks, the newest first. Without any of these, the consumer secret is that too.
    pub(super) fn new(consumer: &[u8], previous: Option<&[u8]>, standard: &[Vec<u8>]) -> Self {
        let key = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        let own = standard.iter().map(Vec::as_slice).chain(standard.is_empty().then_some(consumer));
        Self {
            consumer: std::iter::once(consumer).chain(previous).map(key).collect(),
            standard: own.chain(previous).map(key).collect(),
        }
    }

    /// Returns the value of `x-twitter-webhooks-signature`: by the newest secret.
    pub(super) fn twitter(&self, body: &[u8]) -> String {
        let mut value = SHA256_PREFIX.to_owned();
        if let Some(key) = self.consumer.first() {
            BASE64_STANDARD.encode_string(hmac::sign(key, body), &mut value);
        }
        value
    }

    /// Returns the value of `webhook-signature`: by each secret, the newest first.
    pub(super) fn standard(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut head = String::with_capacity(id.len() + 22);
        // A string takes any text.
        let _ = write!(head, "{id}.{timestamp}.");
        let mut value = String::with_capacity(48 * self.standard.len());
        for key in &self.standard {
            let mut context = hmac::Context::with_key(key);
            context.update(head.as_bytes());
            context.update(body);
            value.push_str(if value.is_empty() { "v1," } else { " v1," });
            BASE64_STANDARD.encode_string(context.sign(), &mut value);
        }
        value
    }

    /// Returns whether Twitter's header, or a receiver's answer to a check, is the signature of `data` by a
    /// consumer secret.
    pub(super) fn verify_twitter(&self, data: &[u8], value: &str) -> bool {
        let Some(signature) = value.strip_prefix(SHA256_PREFIX) else { return false };
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        // `hmac::verify` takes the same time for every wrong signature.
        self.consumer.iter().any(|key| hmac::verify(key, data, &signature).is_ok())
    }

    /// Returns whether one of the signatures in `webhook-signature` is by one of the secrets.
    pub(super) fn verify_standard(
        &self,
        id: &str,
        timestamp: u64,
        body: &[u8],
        value: &str,
    ) -> bool {
        let data = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        // The first few are enough for every rotation.
        let signatures = value.split(' ').filter_map(|item| item.strip_prefix("v1,")).take(8);
        signatures.filter_map(|signature| BASE64_STANDARD.decode(signature).ok()).any(|signature| {
            self.standard.iter().any(|key| hmac::verify(key, &data, &signature).is_ok())
        })
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// Parses a secret of Standard Webhooks: `whsec_` and base64. Returns `None` if it is malformed, or has not 24
/// to 64 bytes.
pub(super) fn parse_standard_secret(text: &str) -> Option<Vec<u8>> {
    let secret = BASE64_STANDARD.decode(text.strip_prefix(STANDARD_PREFIX)?).ok()?;
    STANDARD_BYTES.contains(&secret.len()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"consumer secret";

    /// The test vector of the Standard Webhooks libraries.
    #[test]
    fn webhook_signature_is_as_the_standard_has_it() {
        let secret = parse_standard_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let body = br#"{"test": 2432232314}"#;
        let secrets = Secrets::new(SECRET, None, &[secret]);
        let signature = secrets.standard(id, at, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(secrets.verify_standard(id, at, body, &format!("v1a,AAAA v1,AAAA {signature}")));
        for (id, at, body) in [("msg", at, &body[..]), (id, at + 1, body), (id, at, &body[1..])] {
            assert!(!secrets.verify_standard(id, at, body, &signature));
        }
        assert!(!secrets.verify_standard(id, at, body, &signature.replace("v1,", "v2,")));
    }

    /// `printf BODY | openssl dgst -sha256 -hmac SECRET -binary | base64`
    #[test]
    fn twitters_header_is_the_hmac_of_the_body() {
        let secrets = Secrets::new(SECRET, None, &[]);
        let value = secrets.twitter(br#"{"for_user_id":"42"}"#);
        assert_eq!(value, "sha256=aPOTNLeUtK2k2GvzzLZKFu/2JwmKPo38zgxPmxpTVbs=");
        assert!(secrets.verify_twitter(br#"{"for_user_id":"42"}"#, &value));
        assert!(!secrets.verify_twitter(br#"{"for_user_id":"43"}"#, &value));
        for other in ["", "sha256=", "sha256=AAAA", &value[7..], &value.replace('=', "")] {
            assert!(!secrets.verify_twitter(br#"{"for_user_id":"42"}"#, other), "{other}");
        }
    }

    #[test]
    fn while_a_secret_rotates_both_sign_and_either_answers() {
        let (new, old) = (Secrets::new(b"new", None, &[]), Secrets::new(b"old", None, &[]));
        let both = Secrets::new(b"new", Some(b"old"), &[]);
        assert_eq!(both.twitter(b"body"), new.twitter(b"body"));
        let list = [new.standard("id", 1, b"body"), old.standard("id", 1, b"body")];
        assert_eq!(both.standard("id", 1, b"body"), list.join(" "));
        assert!(both.verify_twitter(b"token", &new.twitter(b"token")));
        assert!(both.verify_twitter(b"token", &old.twitter(b"token")));
        assert!(!new.verify_twitter(b"token", &old.twitter(b"token")));
        let standard = [vec![1; 24], vec![2; 24]];
        let three = Secrets::new(b"new", Some(b"old"), &standard).standard("id", 1, b"body");
        assert_eq!(three.split(' ').count(), 3);
        assert!(three.ends_with(&list[1]));
    }

    #[test]
    fn no_delivery_is_a_token_of_a_check() {
        let token = "abcdefghijklmnopqrstuvwxyz-0123456789_ABCDE";
        assert!(is_check_token(token));
        for other in ["", &token[1..], &format!("{token}A"), &token.replace('-', "="), "é"] {
            assert!(!is_check_token(other), "{other}");
        }
        for byte in b' '..=b'~' {
            let with = token.replacen('a', &char::from(byte).to_string(), 1);
            let is_signed = byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert_eq!(is_check_token(&with), is_signed, "{with}");
        }
    }

    #[test]
    fn a_standard_secret_is_base64_of_24_to_64_bytes() {
        let text = |bytes: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 32, 64] {
            assert_eq!(parse_standard_secret(&text(bytes)).unwrap(), vec![7; bytes]);
        }
        for other in [text(23), text(65), text(24)[6..].to_owned(), text(24) + "!", String::new()] {
            assert_eq!(parse_standard_secret(&other), None, "{other}");
        }
    }
}
