//! The relay's settings, and what receivers answer.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Uri};
use markread::domain::WebhookName;
use markread::relay::fuzzing::{proxy, retry_after, standard_secret, target, webhooks};
use markread::relay::webhook::Targets;

use crate::input::assert_loggable;

/// A webhooks file: names are valid and each is there once; what is wrong is said in one line.
pub(super) fn webhooks_file(data: &[u8]) {
    match webhooks(data) {
        Ok(names) => {
            assert!(names.len() <= 100);
            assert!(names.iter().all(|name| name.parse::<WebhookName>().is_ok()));
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        }
        Err(problem) => {
            assert_loggable(&problem);
            // The names of keys are quoted, the values are not.
            let text = String::from_utf8_lossy(data);
            let is_value = text.matches("hush").count() == text.matches("\"hush").count();
            assert!(!is_value || !problem.contains("hush"), "a value is quoted: {problem}");
        }
    }
}

/// A webhook's URL: it has one spelling, which leads to no address of this machine or of its network, and a
/// check's token can be added. The same text as a proxy's URL and as a secret.
pub(super) fn urls(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let public = Targets { allow_http: false, allow_private: false };
    match target(text, public) {
        Ok((url, checked)) => {
            assert_eq!(target(&url, public).unwrap().0, url);
            let uri: Uri = url.parse().unwrap();
            assert_eq!(uri.scheme_str(), Some("https"));
            let host = uri.host().unwrap().trim_matches(['[', ']']);
            if let Ok(address) = host.parse::<IpAddr>() {
                assert!(!is_inner(address), "{url}");
            }
            let checked: Uri = checked.unwrap().parse().unwrap();
            assert!(checked.query().unwrap().ends_with("crc_token=token"));
            assert_eq!(checked.host(), uri.host());
        }
        Err(problem) => assert_loggable(&problem),
    }
    if let Err(problem) = proxy(text) {
        assert_loggable(&problem);
    }
    if let Some(secret) = standard_secret(text) {
        assert!((24..=64).contains(&secret.len()));
        assert_eq!(format!("whsec_{}", STANDARD.encode(secret)), text);
    }
}

fn is_inner(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
    }
}

/// A `retry-after`: seconds as they are, or a date; an hour at most.
pub(super) fn receivers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let waits = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]));
    let most = Duration::from_secs(3600);
    assert!(waits.is_none_or(|waits| waits <= most));
    let text = data.trim_ascii();
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
        let seconds = std::str::from_utf8(text).unwrap().parse().unwrap_or(u64::MAX);
        assert_eq!(waits, Some(Duration::from_secs(seconds).min(most)));
    }
}
