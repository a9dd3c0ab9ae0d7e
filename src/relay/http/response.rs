//! Responses of receivers, bounded in time and size.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use tokio::time::{Instant, timeout_at};

use super::connector::Connector;
use super::failure::{failure, failure_of};
use super::metered::ResponseBudget;
use super::socket::is_closed_while_idle;
use crate::relay::receiver::{Failure, FailureKind};

/// Longest time that a receiver may ask to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A response whose body is still to come.
pub(super) struct Response {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    body: Incoming,
}

/// Sends a request that `new_request` creates, and waits for the head of its response.
pub(super) async fn send(
    client: &Client<Connector, Full<Bytes>>,
    new_request: impl Fn() -> Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Response, Failure> {
    let (head, body) = loop {
        match timeout_at(deadline, client.request(new_request())).await {
            Ok(Ok(response)) => break response.into_parts(),
            // Nothing was sent, and that connection is not found again.
            Ok(Err(error)) if is_closed_while_idle(&error) => {}
            Ok(Err(error)) => return Err(failure_of(&error)),
            Err(_) => return Err(failure(FailureKind::Timeout, "no response in time")),
        }
    };
    if let Some(budget) = head.extensions.get::<ResponseBudget>() {
        budget.reset();
    }
    Ok(Response { status: head.status, retry_after: retry_after(&head.headers), body })
}

impl Response {
    /// Reads the body to its end, so that the connection can be used again, and keeps nothing of it. If that
    /// fails, the connection is closed.
    pub(super) async fn discard_body(
        mut self,
        max_bytes: usize,
        deadline: Instant,
    ) -> (Self, Result<(), Failure>) {
        let read = read(&mut self.body, max_bytes, deadline, |_| ()).await;
        (self, read)
    }

    /// Reads the body.
    pub(super) async fn into_body(
        mut self,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        read(&mut self.body, max_bytes, deadline, |data| bytes.extend_from_slice(data)).await?;
        Ok(bytes)
    }
}

async fn read(
    body: &mut Incoming,
    max_bytes: usize,
    deadline: Instant,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let too_large = || {
        let detail = format!("the response has more than {} KiB", max_bytes / 1024);
        Err(failure(FailureKind::Response, detail))
    };
    let mut left = max_bytes;
    if body.size_hint().lower() > u64::try_from(max_bytes).unwrap_or(u64::MAX) {
        return too_large();
    }
    while !body.is_end_stream() {
        match timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else { continue };
                match left.checked_sub(data.len()) {
                    Some(after) => left = after,
                    None => return too_large(),
                }
                take(data);
            }
            Ok(Some(Err(error))) => return Err(failure_of(&error)),
            Err(_) => {
                return Err(failure(FailureKind::Timeout, "the response did not end in time"));
            }
        }
    }
    Ok(())
}

/// Returns the time in `retry-after`: seconds, or a date (RFC 9110 section 10.2.3).
pub(in crate::relay) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let time = if is_number {
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let at = httpdate::parse_http_date(value).ok()?;
        at.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Some(time.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let parse = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers)
        };
        let date =
            |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(parse(" 120 "), Some(Duration::from_secs(120)));
        for long in ["3601", &"9".repeat(40), &date(86_400)] {
            assert_eq!(parse(long), Some(RETRY_AFTER_MAX), "{long}");
        }
        let at = parse(&date(90)).unwrap().as_secs_f64();
        assert!((88.0..=90.0).contains(&at), "{at}");
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        for other in ["", "soon", "-1", "1.5", "1e3", "2030-01-01"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
