//! Headers that each request may have: the caller's trace and timeout.

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use markread::domain::Refusal;
use markread::edge::deadline::Deadline;
use markread::edge::routing::Protocol;
use markread::telemetry::{Traceparent, tracestate};
use regex::bytes::Regex;
use tokio::time::Instant;

/// A `traceparent`: parsed as the text of W3C Trace Context says, and written as it was. What follows is a
/// `tracestate`, which has a bound.
pub(super) fn traceparent(data: &[u8]) {
    // Level 2 of the recommendation, section 3.2.2: lower-case digits, no version ff, no ID of zeros, and more
    // only after a dash in later versions.
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        let form = r"(?s-u)\A([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\z";
        Regex::new(form).unwrap()
    });
    let parsed = Traceparent::parse(data);
    let expected = FORM.captures(data).filter(|captures| {
        let part = |nth| captures.get(nth).map(|part| part.as_bytes());
        let is_zero = |nth| part(nth).is_some_and(|id| id.iter().all(|byte| *byte == b'0'));
        let has_more = part(5).is_some();
        part(1) != Some(b"ff")
            && !(is_zero(2) || is_zero(3))
            && !(has_more && part(1) == Some(b"00"))
            && std::str::from_utf8(data).is_ok()
    });
    assert_eq!(parsed.is_some(), expected.is_some(), "{:?}", String::from_utf8_lossy(data));
    if let Some(traceparent) = parsed {
        let written = traceparent.to_string();
        assert_eq!(written.as_bytes()[3..53], data[3..53]);
        assert_eq!(Traceparent::parse(written.as_bytes()), Some(traceparent));
    }
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("tracestate", value.clone());
            headers.append("traceparent", value);
        }
    }
    assert!(tracestate(&headers).header().len() <= 512);
    if headers.get_all("traceparent").iter().count() > 1 {
        assert_eq!(Traceparent::from_headers(&headers), None, "there are several");
    }
}

/// A `grpc-timeout`, as gRPC's protocol has it: at most 8 digits and a unit.
pub(super) fn grpc_timeout(data: &[u8]) {
    /// Longer than any timeout.
    const CALL_TIMEOUT: Duration = Duration::from_secs(100_000_000 * 3600);
    static FORM: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)\A([0-9]{1,8})([HMSmun])\z").unwrap());
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]);
    let began = Instant::now();
    let deadline = Deadline::new(began, Protocol::Grpc, &headers, CALL_TIMEOUT);
    let parsed = (deadline.refusal() == Refusal::DeadlineExceeded).then(|| deadline.end() - began);
    let expected = FORM.captures(data).map(|captures| {
        let text = |nth: usize| std::str::from_utf8(&captures[nth]).unwrap();
        let nanos = match text(2) {
            "H" => 3_600_000_000_000_u64,
            "M" => 60_000_000_000,
            "S" => 1_000_000_000,
            "m" => 1_000_000,
            "u" => 1000,
            _ => 1,
        };
        let nanos = u128::from(text(1).parse::<u64>().unwrap()) * u128::from(nanos);
        let seconds = u64::try_from(nanos / 1_000_000_000).unwrap();
        Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).unwrap())
    });
    assert_eq!(parsed, expected);
}
