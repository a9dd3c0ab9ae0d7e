//! Parameters of plain HTTP.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request};
use http_body_util::Full;
use markread::domain::{FieldProblem, UserId};
use markread::edge::http::{BODY_MAX_BYTES, Form};
use markread::edge::request_bytes::RequestBytes;

use crate::input::halves;

/// A query and a body: decoded as by a second implementation, and an ID is found where exactly one is.
pub(super) fn form(data: &[u8]) {
    let (query, body) = halves(data);
    let form = Form::new(query, body);
    let (of_query, of_body) = (pairs(query), pairs(body));
    assert_eq!(form.query, of_query);
    assert_eq!(form.body, of_body);
    let written: String =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&form.query).finish();
    assert_eq!(Form::new(written.as_bytes(), b"").query, form.query);

    let values = |pairs: &[(String, String)]| {
        let named = pairs.iter().filter(|(name, _)| name == "recipient_id");
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let expected = match (&values(&of_query)[..], &values(&of_body)[..]) {
        ([_, _, ..], _) | (_, [_, _, ..]) => Err(FieldProblem::Repeated),
        ([one], [other]) if one != other => Err(FieldProblem::Conflicting),
        ([value], _) | ([], [value]) => value.parse().map_err(FieldProblem::Id),
        ([], []) => "".parse().map_err(FieldProblem::Id),
    };
    assert_eq!(form.parse::<UserId>("recipient_id"), expected);
}

/// Decodes pairs as the WHATWG's URL standard says (section 5.1).
fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    let parts = encoded.split(|byte| *byte == b'&').filter(|part| !part.is_empty());
    let pair = |part: &[u8]| {
        let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        (decode(&part[..at]), decode(part.get(at + 1..).unwrap_or_default()))
    };
    parts.map(pair).collect()
}

fn decode(text: &[u8]) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| {
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        });
        rest = after;
        bytes.push(match (*first, digits) {
            (b'%', Some(byte)) => {
                rest = &after[2..];
                byte
            }
            (b'+', _) => b' ',
            (byte, _) => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A request's headers and its body: the body that is read is a form within its bound.
pub(super) fn request(data: &[u8]) {
    let (lines, body) = halves(data);
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(50) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line.get(at + 1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let (mut head, ()) = Request::post("/?recipient_id=7").body(()).unwrap().into_parts();
    head.headers = headers;
    let whole = Full::new(Bytes::copy_from_slice(body));
    let budget = RequestBytes::new(None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = runtime.block_on(Form::read(&head, whole, budget.begin()));
    if let Ok(form) = read {
        assert!(body.len() <= BODY_MAX_BYTES, "{} bytes", body.len());
        assert_eq!(form.body, pairs(body));
        assert_eq!(head.headers.get_all("host").iter().count(), 1);
        assert!(head.headers.get_all("transfer-encoding").iter().count() <= 1);
        if !body.is_empty() {
            let kind = head.headers[CONTENT_TYPE].as_bytes().to_ascii_lowercase();
            assert!(kind.trim_ascii().starts_with(b"application/x-www-form-urlencoded"));
        }
    }
}
