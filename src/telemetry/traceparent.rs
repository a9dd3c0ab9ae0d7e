//! The header `traceparent` of W3C Trace Context: the trace that a call belongs to, and its parent
//! span.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` that is propagated: the standard's minimum. A longer one is dropped whole, as
/// the standard allows.
const TRACESTATE_MAX_CHARS: usize = 512;

/// A span and its trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// True if the trace is recorded.
    pub sampled: bool,
}

impl Traceparent {
    /// Parses the caller's header; a malformed one is ignored and a new trace starts.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Returns the header that names this span as the parent.
    pub fn from_span(context: &SpanContext) -> Self {
        let (trace_id, span_id) = (context.trace_id(), context.span_id());
        Self { trace_id, span_id, sampled: context.is_sampled() }
    }

    /// Converts it to the remote context of a child span.
    pub fn context(self, state: TraceState) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        SpanContext::new(self.trace_id, self.span_id, flags, true, state)
    }

    /// Parses `<version>-<trace ID>-<span ID>-<flags>`, of 2, 32, 16 and 2 hexadecimal digits. A later
    /// version may append more. (The SDK's propagator accepts IDs of any length.)
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (fields, rest) = text.split_at_checked(55)?;
        let version = hex(fields.get(..2)?)?;
        let more = rest.starts_with('-') && version > 0;
        if version == 0xff || !(rest.is_empty() || more) {
            return None;
        }
        let [_, trace_id, span_id, flags] =
            <[&str; 4]>::try_from(fields.split('-').collect::<Vec<_>>()).ok()?;
        if (trace_id.len(), span_id.len(), flags.len()) != (32, 16, 2) {
            return None;
        }
        let trace_id = TraceId::from(hex(trace_id)?);
        let span_id = SpanId::from(u64::try_from(hex(span_id)?).ok()?);
        let sampled = hex(flags)? & 1 == 1;
        let valid = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
        valid.then_some(Self { trace_id, span_id, sampled })
    }
}

/// Parses lower-case hexadecimal digits.
fn hex(digits: &str) -> Option<u128> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.bytes().all(digit) { u128::from_str_radix(digits, 16).ok() } else { None }
}

/// Parses the header `tracestate`, which may be repeated: the values are joined in order.
pub fn tracestate(headers: &HeaderMap) -> TraceState {
    let mut values = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok());
    let mut text = Cow::Borrowed("");
    if let Some(first) = values.next() {
        text = first.unwrap_or_default().into();
    }
    for more in values {
        text = format!("{text},{}", more.unwrap_or_default()).into();
    }
    let taken = Some(text).filter(|text| text.len() <= TRACESTATE_MAX_CHARS);
    taken.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The form of the header.
impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, sampled } = self;
        write!(f, "00-{trace_id}-{span_id}-{:02x}", u8::from(*sampled))
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_header_is_parsed_and_written_again() {
        let table = [
            (format!("00-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{SPAN}-01")),
            (format!("00-{TRACE}-{SPAN}-00"), format!("00-{TRACE}-{SPAN}-00")),
            // Unknown flags are dropped.
            (format!("00-{TRACE}-{SPAN}-ff"), format!("00-{TRACE}-{SPAN}-01")),
            (format!("00-{TRACE}-{SPAN}-02"), format!("00-{TRACE}-{SPAN}-00")),
            (format!("01-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{SPAN}-01")),
            (format!("fe-{TRACE}-{SPAN}-01-more"), format!("00-{TRACE}-{SPAN}-01")),
        ];
        for (value, expected) in table {
            let taken = Traceparent::from_headers(&headers(&TRACEPARENT, &[&value]));
            assert_eq!(taken.map(|taken| taken.to_string()), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_malformed_header_is_ignored() {
        let zeros = "0".repeat(32);
        let good = format!("00-{TRACE}-{SPAN}-01");
        let table = [
            String::new(),
            "00-nonsense".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("+0-{TRACE}-{SPAN}-01"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}{SPAN}--01"),
            format!("00-{TRACE}-{SPAN}-0\u{e9}"),
            format!("{good},{good}"),
        ];
        for value in table {
            assert_eq!(Traceparent::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Traceparent::from_headers(&HeaderMap::new()), None);
        assert_eq!(Traceparent::from_headers(&headers(&TRACEPARENT, &[&good, &good])), None);
    }

    #[test]
    fn a_tracestate_is_kept_whole_or_dropped() {
        let long = format!("a={}", "x".repeat(510));
        let table = [
            (vec![], ""),
            (vec!["a=1,b=2"], "a=1,b=2"),
            (vec!["a=1", "b=2"], "a=1,b=2"),
            (vec!["A=1"], ""),
            (vec!["no pair"], ""),
            (vec![long.as_str(), "b=2"], ""),
        ];
        for (values, expected) in table {
            let state = tracestate(&headers(&TRACESTATE, &values));
            assert_eq!(state.header(), expected, "{values:?}");
        }
    }
}
