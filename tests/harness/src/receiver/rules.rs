//! The published rules of a delivery and of a check (`docs/contract.md`, section 9), computed apart from the
//! service.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::http::Request;

/// How far a timestamp may be from the receiver's clock, as Standard Webhooks' libraries allow.
const TOLERANCE_S: u64 = 300;

/// The secrets that a receiver knows.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The consumer secret, then the previous one while it rotates.
    pub consumer: Vec<Vec<u8>>,
    /// Those of `webhook-signature`, newest first. Every one of them must have signed.
    pub standard: Vec<Vec<u8>>,
}

impl Secrets {
    /// The consumer secret alone, which is used for both signatures.
    pub fn one(secret: &[u8]) -> Self {
        Self { consumer: vec![secret.to_vec()], standard: vec![secret.to_vec()] }
    }
}

/// `sha256=` and the base64 HMAC-SHA256 of some bytes.
pub fn twitter_signature(secret: &[u8], bytes: &[u8]) -> String {
    format!("sha256={}", mac(secret, &[bytes]))
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    STANDARD.encode(hmac::sign(&key, &parts.concat()))
}

/// Who an event is from and for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The event's `sender_id`.
    pub reader: u64,
    /// The event's `target.recipient_id`.
    pub recipient: u64,
    /// The delivery's `for_user_id`.
    pub for_user: u64,
}

/// What a delivery says.
pub(super) struct Facts {
    pub(super) id: String,
    pub(super) partition: usize,
    pub(super) entry: (u64, u64),
    pub(super) lane: Lane,
    pub(super) message: u64,
}

/// Returns what a delivery says, or which rule it breaks.
pub(super) fn check_delivery(request: &Request, secrets: &Secrets) -> Result<Facts, String> {
    let header = |name: &str| {
        request.header(name).ok_or_else(|| format!("not one {name}: {:?}", request.headers))
    };
    if request.method != "POST" {
        return Err(format!("the method is {}", request.method));
    }
    if header("content-type")? != "application/json" {
        return Err(format!("the content-type is {}", header("content-type")?));
    }
    let signature = header("x-twitter-webhooks-signature")?;
    if signature != twitter_signature(&secrets.consumer[0], &request.body) {
        return Err(format!("x-twitter-webhooks-signature is not right: {signature}"));
    }
    check_standard(header("webhook-id")?, header("webhook-timestamp")?, request, secrets)?;
    facts(header("webhook-id")?, &request.body)
}

fn check_standard(
    id: &str,
    timestamp: &str,
    request: &Request,
    secrets: &Secrets,
) -> Result<(), String> {
    let seconds: u64 = timestamp.parse().map_err(|_| format!("webhook-timestamp: {timestamp}"))?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    if now.abs_diff(seconds) > TOLERANCE_S {
        return Err(format!("webhook-timestamp {timestamp} is far from {now}"));
    }
    let signed = format!("{id}.{timestamp}.");
    let parts = [signed.as_bytes(), &request.body];
    let expected: Vec<_> =
        secrets.standard.iter().map(|secret| format!("v1,{}", mac(secret, &parts))).collect();
    let found = request.header("webhook-signature").unwrap_or_default();
    if found != expected.join(" ") {
        return Err(format!("webhook-signature is not right: {found}"));
    }
    Ok(())
}

fn facts(id: &str, body: &[u8]) -> Result<Facts, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8".to_owned())?;
    let invalid = || format!("not as promised: {id}: {text}");
    let words: Vec<&str> = id.split('-').collect();
    let [partition, ms, sequence, for_user] = words[..] else { return Err(invalid()) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| invalid());
    let entry = (number(ms)?, number(sequence)?);
    // In front, and the payload follows unchanged, which begins with a brace.
    if !text.starts_with(&format!(r#"{{"for_user_id":"{for_user}",""#)) {
        return Err(invalid());
    }
    let value: Value = serde_json::from_str(text).map_err(|_| invalid())?;
    let event = &value["direct_message_mark_read_events"][0];
    let id_in = |value: &Value| number(value.as_str().ok_or_else(invalid)?);
    let lane = Lane {
        reader: id_in(&event["sender_id"])?,
        recipient: id_in(&event["target"]["recipient_id"])?,
        for_user: number(for_user)?,
    };
    if lane.for_user != lane.reader && lane.for_user != lane.recipient {
        return Err(invalid());
    }
    let message = id_in(&event["last_read_event_id"])?;
    let partition = partition.parse().map_err(|_| invalid())?;
    Ok(Facts { id: id.to_owned(), partition, entry, lane, message })
}

/// Returns the token of a check, or which rule it breaks.
pub(super) fn check_token(request: &Request) -> Result<String, String> {
    let invalid = || format!("not a check: {} {}", request.method, request.target);
    let (_, query) = request.target.split_once('?').ok_or_else(invalid)?;
    let token = query.strip_prefix("crc_token=").ok_or_else(invalid)?;
    if token.is_empty() || token.contains('&') || !request.body.is_empty() {
        return Err(invalid());
    }
    // Receivers are told to sign nothing else (docs/webhooks.md).
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    decode(token)
        .filter(|token| token.len() == 43 && token.bytes().all(is_base64))
        .ok_or_else(invalid)
}

/// Percent-decodes a query's value.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'%' => {
                let (hex, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::payload;

    #[test]
    fn signatures_are_those_of_the_standards() {
        // Standard Webhooks' example: key, message and signature are from its libraries' tests.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        let expected = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(mac(&secret, &[signed]), expected);
        // RFC 4231, test case 2.
        let expected = "sha256=W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
        assert_eq!(twitter_signature(b"Jefe", b"what do ya want for nothing?"), expected);
    }

    /// A delivery as it is promised, with the signatures of this secret.
    fn delivery(id: &str, body: &str, secret: &[u8]) -> Request {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let signed = format!("{id}.{now}.");
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("x-twitter-webhooks-signature", twitter_signature(secret, body.as_bytes())),
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", now.to_string()),
            (
                "webhook-signature",
                format!("v1,{}", mac(secret, &[signed.as_bytes(), body.as_bytes()])),
            ),
        ];
        Request {
            method: "POST".to_owned(),
            target: "/hook".to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let secret = b"secret";
        let secrets = Secrets::one(secret);
        let body = format!(r#"{{"for_user_id":"2",{}"#, &payload(1, 2, 3)[1..]);
        let id = "0-1518127183443-0-2";
        let good = delivery(id, &body, secret);
        let facts = check_delivery(&good, &secrets).unwrap();
        assert_eq!((facts.entry, facts.message), ((1_518_127_183_443, 0), 3));
        assert_eq!(facts.lane, Lane { reader: 1, recipient: 2, for_user: 2 });

        let refused = |request: &Request| assert!(check_delivery(request, &secrets).is_err());
        refused(&delivery(id, &body, b"another"));
        refused(&delivery("0-1518127183443-0-1", &body, secret));
        refused(&delivery("0-1518127183443-2", &body, secret));
        refused(&delivery(id, &payload(1, 2, 3), secret));
        refused(&delivery("0-1-0-7", &body.replace("\"2\",\"d", "\"7\",\"d"), secret));
        for index in 0..good.headers.len() {
            let (mut absent, mut twice, mut other) = (good.clone(), good.clone(), good.clone());
            absent.headers.remove(index);
            twice.headers.push(good.headers[index].clone());
            other.headers[index].1.push('0');
            [absent, twice, other].iter().for_each(refused);
        }
        let mut changed = good.clone();
        changed.body.push(b' ');
        refused(&changed);
    }

    #[test]
    fn a_query_is_decoded() {
        assert_eq!(decode("a%2Bb+c%3d").as_deref(), Some("a+b c="));
        assert_eq!(decode("%2"), None);
    }
}
