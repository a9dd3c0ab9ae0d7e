//! When a call ends: the caller's own deadline and the server's call timeout.
//!
//! tonic answers an expired deadline as CANCELLED. Here the caller's own is `DEADLINE_EXCEEDED`, and the
//! call timeout is UNAVAILABLE if it ran out during a wait for the store.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::routing::Protocol;
use crate::domain::Refusal;

/// The header of the gRPC protocol with the caller's timeout.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Grace on top of the call timeout, so that the store's own wait ends first (UNAVAILABLE); past it the
/// request never completed (`DEADLINE_EXCEEDED`).
const GRACE: Duration = Duration::from_millis(100);

/// When a call must have been answered.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// End of the server's call timeout. A store that has not answered by then is unavailable.
    pub server: Instant,
    caller: Option<Instant>,
}

impl Deadline {
    /// Returns the deadline of a call. A malformed `grpc-timeout` is ignored, as in every gRPC server;
    /// plain HTTP has none.
    pub fn new(
        began: Instant,
        protocol: Protocol,
        headers: &HeaderMap,
        call_timeout: Duration,
    ) -> Self {
        let header = headers.get(GRPC_TIMEOUT).filter(|_| protocol == Protocol::Grpc);
        let timeout = header.and_then(|value| parse_timeout(value.as_bytes()));
        let caller = timeout.map(|timeout| began + timeout);
        Self { server: began + call_timeout, caller }
    }

    /// Returns whether the caller's deadline has passed, or will within `slack`.
    pub fn has_passed(self, slack: Duration) -> bool {
        self.caller.is_some_and(|at| at <= Instant::now() + slack)
    }

    /// Returns when the edge ends the call.
    pub fn end(self) -> Instant {
        let server = self.server + GRACE;
        self.caller.map_or(server, |caller| caller.min(server))
    }

    /// Returns the refusal of a call that the edge ended.
    pub fn refusal(self) -> Refusal {
        match self.caller {
            Some(caller) if caller < self.server + GRACE => Refusal::DeadlineExceeded,
            _ => Refusal::RequestTimeout,
        }
    }
}

/// Parses `TimeoutValue TimeoutUnit` of the gRPC protocol: at most 8 digits and one of `HMSmun`.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        let table: [(&str, Option<Duration>); 12] = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0m", Some(Duration::ZERO)),
            ("", None),
            ("m", None),
            ("123456789m", None),
            ("1.5S", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_both_deadlines_ends_the_call() {
        let began = Instant::now();
        let deadline = |protocol, timeout: Option<&'static str>| {
            let value = timeout.map(|text| (GRPC_TIMEOUT, http::HeaderValue::from_static(text)));
            Deadline::new(began, protocol, &value.into_iter().collect(), Duration::from_secs(2))
        };
        let ms = Duration::from_millis;
        let table = [
            (Protocol::Grpc, Some("100m"), ms(100), Refusal::DeadlineExceeded),
            (Protocol::Grpc, Some("10S"), ms(2100), Refusal::RequestTimeout),
            (Protocol::Grpc, Some("99999999H"), ms(2100), Refusal::RequestTimeout),
            (Protocol::Grpc, None, ms(2100), Refusal::RequestTimeout),
            (Protocol::Http, Some("100m"), ms(2100), Refusal::RequestTimeout),
        ];
        for (protocol, timeout, end, refusal) in table {
            let deadline = deadline(protocol, timeout);
            assert_eq!(deadline.end() - began, end, "{timeout:?}");
            assert_eq!(deadline.refusal(), refusal, "{timeout:?}");
        }
        assert!(deadline(Protocol::Grpc, Some("0m")).has_passed(Duration::ZERO));
        assert!(!deadline(Protocol::Http, Some("0m")).has_passed(Duration::ZERO));
        assert!(deadline(Protocol::Grpc, Some("50m")).has_passed(ms(50)));
        assert!(!deadline(Protocol::Grpc, Some("50m")).has_passed(ms(49)));
    }
}
