//! OAuth 1.0a: the `authorization` header, and the text that a signature covers (RFC 5849).

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Request};
use markread::edge::http::Form;
use markread::identity::oauth1::{OAuth1, SignedRequest};

use crate::input::halves;

const CREDENTIALS: &str = r#"
    [[credential]]
    consumer_key = "ck&1"
    consumer_secret = "c s/1"
    access_token = "42-tok"
    access_token_secret = "t+s%2"
    user_id = "42"
"#;

/// The secrets above, as they are a key (RFC 5849 section 3.4.2).
const KEY: &str = "c%20s%2F1&t%2Bs%252";

static VERIFIER: LazyLock<OAuth1> = LazyLock::new(|| {
    OAuth1::new(Path::new("credentials"), CREDENTIALS.as_bytes().to_vec(), Vec::new()).unwrap()
});

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn head(method: Method, target: &str) -> Option<Parts> {
    let request = Request::builder().method(method).uri(target).header("host", "Example.com:8443");
    request.body(()).ok().map(|request| request.into_parts().0)
}

/// An arbitrary header and body. Nobody without the secrets gets in: a signature is one of `signed`.
pub(super) fn header(data: &[u8]) {
    let (header, body) = halves(data);
    let Ok(header) = std::str::from_utf8(header) else { return };
    // The clock's time takes the place of a word, so that a corpus does not grow too old.
    let header = header.replace("NOW", &now_seconds().to_string());
    let form = Form::new(b"", body);
    let head = head(Method::POST, "/1.1/direct_messages/mark_read.json").unwrap();
    let signed =
        SignedRequest { head: &head, query: &form.query, body: &form.body, scheme: Scheme::HTTPS };
    assert!(VERIFIER.verify(&header, &signed).is_err(), "without a secret: {header:?}");
}

/// Lines of method, target, nonce and further parameters of the header, then a body: as signed by a second
/// implementation it is accepted, and not with any change.
pub(super) fn signed(data: &[u8]) {
    let (lines, body) = halves(data);
    let Ok(lines) = std::str::from_utf8(lines) else { return };
    let mut lines = lines.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (method, target, nonce, extra) = (next(), next(), next(), next());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let Some(head) = head(method, target) else { return };
    if nonce.is_empty() || head.uri.authority().is_some() {
        return;
    }
    let form = Form::new(head.uri.query().unwrap_or_default().as_bytes(), body);
    let mut parameters: Vec<(String, String)> = [
        ("oauth_consumer_key", "ck&1"),
        ("oauth_token", "42-tok"),
        ("oauth_nonce", nonce),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", &now_seconds().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if !extra.is_empty() && extra != "realm" && !extra.starts_with("oauth_") {
        parameters.push((extra.to_owned(), "x".to_owned()));
    }
    let signature = sign(&base_string(&head, &parameters, &form));
    let header = |signature: &str| {
        let mut pairs: Vec<_> = parameters
            .iter()
            .map(|(name, value)| format!("{}=\"{}\"", encode(name), encode(value)))
            .collect();
        pairs.push(format!("oauth_signature=\"{}\"", encode(signature)));
        pairs.join(", ")
    };
    let verify = |signature: &str, form: &Form| {
        let signed = SignedRequest {
            head: &head,
            query: &form.query,
            body: &form.body,
            scheme: Scheme::HTTPS,
        };
        VERIFIER.verify(&header(signature), &signed)
    };
    let mut given = form.query.iter().chain(&form.body);
    let verified = verify(&signature, &form);
    if given.any(|(name, _)| name.starts_with("oauth_")) {
        assert!(verified.is_err(), "oauth parameters outside of the header");
        return;
    }
    assert_eq!(verified.unwrap().0.get(), 42);
    let mut more = Form::new(head.uri.query().unwrap_or_default().as_bytes(), body);
    more.body.push(("recipient_id".to_owned(), "7".to_owned()));
    assert!(verify(&signature, &more).is_err(), "another body");
    assert!(verify(&sign("another text"), &form).is_err(), "another signature");
}

/// The text that is signed (RFC 5849 section 3.4.1).
fn base_string(head: &Parts, header: &[(String, String)], form: &Form) -> String {
    let all = header.iter().chain(&form.query).chain(&form.body);
    let mut all: Vec<_> = all.map(|(name, value)| (encode(name), encode(value))).collect();
    all.sort();
    let mut parameters = String::new();
    for (name, value) in all {
        if !parameters.is_empty() {
            parameters.push('&');
        }
        parameters.push_str(&name);
        parameters.push('=');
        parameters.push_str(&value);
    }
    let uri = format!("https://example.com:8443{}", head.uri.path());
    [head.method.as_str(), &encode(&uri), &encode(&parameters)].join("&")
}

fn sign(text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, KEY.as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

/// Percent-encodes all but unreserved characters (RFC 5849 section 3.6).
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte.into());
            }
            _ => write!(encoded, "%{byte:02X}").unwrap(),
        }
    }
    encoded
}
