//! How long a call may take: the caller's own deadline and the server's call timeout.
//!
//! tonic answers an expired deadline as CANCELLED; the contract says `DEADLINE_EXCEEDED` for the
//! caller's own, and UNAVAILABLE where the call timeout ran out while Redis was waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Timeout, timeout_at};

use crate::edge::answer::Refusal;
use crate::edge::routing::Wire;

/// The header of the gRPC protocol; other clients do not send it.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What the call timeout is exceeded by before a call is ended from outside: time for the one that
/// waits for the store to answer first, since only it knows that the store is what is slow.
const GRACE: Duration = Duration::from_millis(100);

/// When a call must have been answered.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When the server's call timeout ends: a store that has not answered by then is unavailable.
    pub call_ends_at: Instant,
    caller_gives_up_at: Option<Instant>,
}

impl Deadline {
    /// The deadline of a call that began then. A `grpc-timeout` that does not parse means none,
    /// as in every gRPC server; plain HTTP has no deadline of the caller's.
    pub fn of_call(
        began: Instant,
        wire: Wire,
        headers: &HeaderMap,
        call_timeout: Duration,
    ) -> Self {
        let header = headers.get(GRPC_TIMEOUT).filter(|_| wire == Wire::Grpc);
        let timeout = header.and_then(|value| parse_timeout(value.as_bytes()));
        let caller_gives_up_at = timeout.map(|timeout| began + timeout);
        Self { call_ends_at: began + call_timeout, caller_gives_up_at }
    }

    /// Whether the caller has given up by now, or will within `slack`.
    pub fn has_passed(self, slack: Duration) -> bool {
        self.caller_gives_up_at.is_some_and(|at| at <= Instant::now() + slack)
    }

    /// Waits for the call's answer no longer than until the deadline. Past the caller's own it comes
    /// to [`Refusal::DeadlineExceeded`], past the server's to [`Refusal::RequestTimeout`]: the request
    /// did not arrive whole.
    pub fn bound<F: Future>(self, call: F) -> Bound<F> {
        let server = self.call_ends_at + GRACE;
        let callers = self.caller_gives_up_at.filter(|caller| *caller < server);
        Bound { call: timeout_at(callers.unwrap_or(server), call), is_callers: callers.is_some() }
    }
}

pin_project! {
    /// A call that is waited for until its deadline. Not an async function: that one would hold the
    /// call twice, and a server as many of them as there are calls.
    #[derive(Debug)]
    pub struct Bound<F> {
        #[pin]
        call: Timeout<F>,
        is_callers: bool,
    }
}

impl<F: Future> Future for Bound<F> {
    type Output = Result<F::Output, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = ready!(this.call.poll(cx));
        Poll::Ready(answered.map_err(|_| match this.is_callers {
            true => Refusal::DeadlineExceeded,
            false => Refusal::RequestTimeout,
        }))
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol: at most 8 digits and one of `HMSmun`.
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
    async fn the_callers_deadline_and_the_servers_are_told_apart() {
        let headers = |timeout: &'static str| {
            HeaderMap::from_iter([(GRPC_TIMEOUT, http::HeaderValue::from_static(timeout))])
        };
        let of_call = |wire, headers: HeaderMap| {
            Deadline::of_call(Instant::now(), wire, &headers, Duration::from_secs(2))
        };
        let never = std::future::pending::<()>;

        let short = of_call(Wire::Grpc, headers("100m"));
        assert_eq!(short.bound(never()).await, Err(Refusal::DeadlineExceeded));
        let long = of_call(Wire::Grpc, headers("10S"));
        assert_eq!(long.bound(never()).await, Err(Refusal::RequestTimeout));
        let none = of_call(Wire::Grpc, HeaderMap::new());
        assert_eq!(none.bound(never()).await, Err(Refusal::RequestTimeout));
        let past = of_call(Wire::Grpc, headers("0m"));
        assert!(past.has_passed(Duration::ZERO));
        let http = of_call(Wire::Http, headers("0m"));
        assert!(!http.has_passed(Duration::ZERO));
        let far = of_call(Wire::Grpc, headers("99999999H"));
        assert_eq!(far.bound(async { 1 }).await, Ok(1));
    }
}
