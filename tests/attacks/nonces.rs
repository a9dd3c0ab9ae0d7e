//! OAuth nonces of a reader over its quota.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use markread_harness::{MESSAGE, RECIPIENT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::sleep;

use crate::case::{Case, case};
use crate::http2::{Call, Connection, Reading};
use crate::stage::Stage;

const QUOTA: usize = 100;
const CALLS: usize = 4000;

/// Calls at once: as many may be under way when the first denial is.
const AT_ONCE: usize = 50;

const PATH: &str = "/1.1/direct_messages/mark_read.json";

const CREDENTIALS: &str = r#"
    [[credential]]
    consumer_key = "consumer"
    consumer_secret = "consumer-secret"
    access_token = "token"
    access_token_secret = "token-secret"
    user_id = "6680000001"
"#;

/// All but the unreserved characters: RFC 5849, 3.6.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn cases() -> Vec<Case> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, CREDENTIALS).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let flags = format!("--rate-limit {QUOTA} --oauth1-credentials-file {path}");
    vec![case!("nonces: of a reader over its quota", over_quota).flags(&flags).keeping(file)]
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// A signed mark: RFC 5849, with the parameters in the body.
fn signed(nonce: usize) -> Call {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (message, recipient) = (MESSAGE.to_string(), RECIPIENT.to_string());
    let (nonce, now) = (format!("nonce-{nonce}"), now.to_string());
    // In the order of their names, as the signature needs them.
    let parameters = [
        ("last_read_event_id", message.as_str()),
        ("oauth_consumer_key", "consumer"),
        ("oauth_nonce", &nonce),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", &now),
        ("oauth_token", "token"),
        ("oauth_version", "1.0"),
        ("recipient_id", &recipient),
    ];
    let joined = parameters.map(|(name, value)| format!("{name}={value}")).join("&");
    let base = format!("POST&{}&{}", encode(&format!("http://markread{PATH}")), encode(&joined));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"consumer-secret&token-secret");
    let signature = BASE64_STANDARD.encode(hmac::sign(&key, base.as_bytes()));
    let own = parameters.iter().filter(|(name, _)| name.starts_with("oauth_"));
    let own: Vec<_> = own.map(|(name, value)| format!(r#"{name}="{value}""#)).collect();
    let own = format!(r#"OAuth {}, oauth_signature="{}""#, own.join(", "), encode(&signature));
    let body = format!("last_read_event_id={message}&recipient_id={recipient}");
    Call::post(PATH, "application/x-www-form-urlencoded", Some(&own), body.as_bytes())
}

/// A reader signs 4,000 marks, 100 of which its quota allows. Bound: a nonce is written only for calls
/// that reach the quota, when the denial is known no more.
async fn over_quota(stage: Arc<Stage>) {
    let attack = async {
        let mut one = Connection::open(stage.address(), 65_535, Reading::All).await.unwrap();
        for nth in 0..CALLS {
            while nth >= one.seen.done() + AT_ONCE && !one.seen.is_cut() {
                sleep(Duration::from_millis(1)).await;
            }
            let call = signed(nth);
            if one.begin(1, |stream| call.complete(stream)).await.is_err() {
                break;
            }
        }
        sleep(Duration::from_millis(500)).await;
        let keys: Vec<String> = stage.redis.run("KEYS markread:oauth1:*").await;
        let (answered, keys) = (one.seen.done(), keys.len());
        stage.check(answered == CALLS, format!("all calls are answered: {answered}"));
        stage.check(keys >= QUOTA, format!("those that were served left a nonce: {keys}"));
        let most = QUOTA + 2 * AT_ONCE;
        stage.check(keys <= most, format!("those that were not left none: {keys} of {answered}"));
    };
    stage.attack(attack).await;
}
