//! Parameters of a request: form-encoded in its body, in its query, or in both.

use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use http_body::Body;
use http_body_util::BodyExt;

use crate::domain::{FieldProblem, InvalidId, Refusal};
use crate::edge::request_bytes::HeldBytes;

/// Largest body, in bytes (`docs/contract.md`, "HTTP").
pub const BODY_MAX_BYTES: usize = 8 * 1024;

/// The content type of a body (WHATWG URL, section 5).
const FORM: &str = "application/x-www-form-urlencoded";

/// Names and values, decoded, in order.
pub(super) type Pairs = Vec<(String, String)>;

/// Parameters of a request.
#[derive(Debug, Default)]
pub struct Form {
    /// Parameters in the query.
    pub query: Pairs,
    /// Parameters in the body.
    pub body: Pairs,
}

impl Form {
    /// Decodes a query and a body.
    pub fn new(query: &[u8], body: &[u8]) -> Self {
        Self { query: pairs(query), body: pairs(body) }
    }

    /// Reads a request's parameters. Without a body any content type, or none, is accepted.
    ///
    /// # Errors
    ///
    /// [`Refusal::WrongContentType`], [`Refusal::MessageTooLarge`], [`Refusal::MalformedHttp`], or
    /// [`Refusal::Overloaded`] if incomplete requests hold too much memory.
    pub async fn read<B>(head: &Parts, body: B, share: HeldBytes) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes>,
    {
        if !is_framed_once(&head.headers) {
            return Err(Refusal::MalformedHttp("the end of the body is given in two ways"));
        }
        // RFC 9112 section 3.2. A signature covers the host.
        if head.version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
            return Err(Refusal::MalformedHttp("an HTTP/1.1 request must have one host header"));
        }
        let body = read_body(&head.headers, body, share).await?;
        Ok(Self::new(head.uri.query().unwrap_or_default().as_bytes(), &body))
    }

    /// Parses the ID in a parameter. An empty parameter is missing. It may be in the query and in the body
    /// with the same value, but not twice in one of them.
    ///
    /// # Errors
    ///
    /// The problem.
    pub fn parse<T>(&self, name: &str) -> Result<T, FieldProblem>
    where
        T: FromStr<Err = InvalidId>,
    {
        let value = match (single(&self.query, name)?, single(&self.body, name)?) {
            (Some(query), Some(body)) if query != body => return Err(FieldProblem::Conflicting),
            (query, body) => query.or(body).unwrap_or_default(),
        };
        Ok(value.parse()?)
    }
}

/// Returns a parameter's value if it is given at most once.
fn single<'a>(pairs: &'a Pairs, name: &str) -> Result<Option<&'a str>, FieldProblem> {
    let mut values = pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(FieldProblem::Repeated),
        (value, None) => Ok(value.map(String::as_str)),
    }
}

/// Decodes pairs. Invalid percent-encoding stays as it is and invalid UTF-8 is replaced: neither is part
/// of an ID.
fn pairs(encoded: &[u8]) -> Pairs {
    form_urlencoded::parse(encoded).into_owned().collect()
}

/// Returns whether the end of the body is unambiguous: a proxy in front may read two codings differently
/// (RFC 9112 section 6.3). hyper refuses lengths that differ and codings that do not end in chunked.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

async fn read_body<B>(
    headers: &HeaderMap,
    body: B,
    mut share: HeldBytes,
) -> Result<BytesMut, Refusal>
where
    B: Body<Data = Bytes>,
{
    const TOO_LARGE: Refusal = Refusal::MessageTooLarge { max_bytes: BODY_MAX_BYTES };
    let is_form = is_form(headers);
    let announced_bytes = body.size_hint().lower();
    if announced_bytes > 0 && !is_form {
        return Err(Refusal::WrongContentType { accepts: FORM });
    }
    if usize::try_from(announced_bytes).is_ok_and(|bytes| bytes > BODY_MAX_BYTES) {
        return Err(TOO_LARGE);
    }
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Refusal::MalformedHttp("the request's body is incomplete or malformed"));
        };
        let Ok(data) = frame.into_data() else { continue };
        if !data.is_empty() && !is_form {
            return Err(Refusal::WrongContentType { accepts: FORM });
        }
        if whole.len() + data.len() > BODY_MAX_BYTES {
            return Err(TOO_LARGE);
        }
        share.add(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// Returns whether a body is an uncompressed form.
fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let essence = first.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let codings = headers.get_all(CONTENT_ENCODING);
    essence.trim_ascii().eq_ignore_ascii_case(FORM.as_bytes())
        && codings.iter().map(HeaderValue::as_bytes).all(|coding| coding == b"identity")
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;

    use super::*;
    use crate::domain::{RECIPIENT_ID, UserId};
    use crate::edge::request_bytes::RequestBytes;

    fn recipient(query: &str, body: &str) -> Result<u64, FieldProblem> {
        let form = Form::new(query.as_bytes(), body.as_bytes());
        form.parse(RECIPIENT_ID).map(UserId::get)
    }

    #[test]
    fn a_parameter_is_in_the_query_or_in_the_body_once() {
        for (query, body) in [
            ("recipient_id=7", ""),
            ("", "recipient_id=7"),
            ("recipient_id=7", "recipient_id=7"),
            ("", "&&recipient_id=%37&"),
            ("recipient%5Fid=7&x=%zz&x", "y"),
        ] {
            assert_eq!(recipient(query, body), Ok(7), "{query:?} {body:?}");
        }
        let missing = Err(InvalidId::Missing.into());
        assert_eq!(recipient("", ""), missing);
        assert_eq!(recipient("recipient_id", "recipient_id="), missing);
        assert_eq!(recipient("Recipient_id=7", "recipient_id%=7"), missing);
        for (query, body) in
            [("recipient_id=7&recipient_id=7", ""), ("", "recipient_id&recipient_id=7")]
        {
            assert_eq!(recipient(query, body), Err(FieldProblem::Repeated), "{query:?} {body:?}");
        }
        assert_eq!(recipient("recipient_id=7", "recipient_id=8"), Err(FieldProblem::Conflicting));
        assert_eq!(recipient("recipient_id=7", "recipient_id="), Err(FieldProblem::Conflicting));
    }

    #[test]
    fn broken_and_overlong_encodings_are_not_ids() {
        // Overlong forms of 7, and a 7 that is not ASCII.
        for value in [
            "%",
            "%7",
            "7%",
            "%zz7",
            "7%00",
            "%C0%B7",
            "%E0%80%B7",
            "%EF%BC%97",
            "+7",
            "%2B7",
            "7+",
        ] {
            let problem = Err(InvalidId::NotDecimal.into());
            assert_eq!(recipient(&format!("recipient_id={value}"), ""), problem, "{value}");
        }
    }

    async fn read(headers: &[(&str, &str)], body: &str) -> Result<usize, Refusal> {
        let mut request = Request::post("/").version(Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        Form::read(&head, body, RequestBytes::new(None).begin()).await.map(|form| form.body.len())
    }

    #[tokio::test]
    async fn a_body_is_a_form_of_at_most_8_kib() {
        let form = ("content-type", FORM);
        assert_eq!(read(&[form], "a=1&b=2").await, Ok(2));
        let with_charset = "Application/X-WWW-Form-Urlencoded ; charset=utf-8";
        assert_eq!(read(&[("content-type", with_charset)], "a=1").await, Ok(1));
        assert_eq!(read(&[form, ("content-encoding", "identity")], "a=1").await, Ok(1));
        assert_eq!(read(&[("content-type", "application/json")], "").await, Ok(0));
        assert_eq!(read(&[], "").await, Ok(0));

        let wrong = Err(Refusal::WrongContentType { accepts: FORM });
        assert_eq!(read(&[], "a=1").await, wrong);
        assert_eq!(read(&[("content-type", "application/json")], "{}").await, wrong);
        assert_eq!(read(&[form, form], "a=1").await, wrong);
        assert_eq!(read(&[form, ("content-encoding", "gzip")], "a=1").await, wrong);

        let largest = "a".repeat(BODY_MAX_BYTES);
        assert_eq!(read(&[form], &largest).await, Ok(1));
        let too_large = Err(Refusal::MessageTooLarge { max_bytes: BODY_MAX_BYTES });
        assert_eq!(read(&[form], &format!("{largest}a")).await, too_large);
        assert_eq!(read(&[("content-type", "text/plain")], &format!("{largest}a")).await, wrong);
    }

    #[tokio::test]
    async fn an_ambiguous_end_of_the_body_is_refused() {
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(read(&[chunked], "").await, Ok(0));
        let refused = Err(Refusal::MalformedHttp("the end of the body is given in two ways"));
        assert_eq!(read(&[chunked, chunked], "").await, refused);
        for coding in ["chunked, chunked", "gzip, chunked", "identity"] {
            let headers = [("transfer-encoding", coding)];
            assert_eq!(read(&headers, "").await, refused, "{coding}");
        }
    }
}
