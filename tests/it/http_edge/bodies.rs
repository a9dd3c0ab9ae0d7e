//! How bodies may be framed, and how long they may be.

use std::fmt::Write;

use markread_harness::Raw;

use super::client::{BOTH, Http1, HttpRequest, Version};
use super::spellings::Spellings;
use super::{EXAMPLE, FORM, assert_done, assert_refused};

/// The longest body, in bytes.
const MAX: usize = 8 * 1024;

#[tokio::test]
async fn a_body_that_is_empty_needs_no_content_type_and_may_have_any() {
    let mut spellings = Spellings::start().await;
    for content_type in ["application/json", "text/plain", "multipart/form-data; boundary=x", FORM]
    {
        let request = HttpRequest::query(EXAMPLE).header("content-type", content_type);
        for version in BOTH {
            spellings.assert_served(request.clone(), version).await;
        }
        spellings
            .assert_served(
                request.header("transfer-encoding", "chunked").body("0\r\n\r\n"),
                BOTH[0],
            )
            .await;
    }
    // Over HTTP/1.1 without any length; over HTTP/2 without one, and without a DATA frame.
    let request = HttpRequest::query(EXAMPLE).of(spellings.next_reader());
    let sent = String::from_utf8(request.bytes()).unwrap().replace("content-length: 0\r\n", "");
    let mut connection = Http1::to(&spellings.server).await;
    connection.write(sent.as_bytes()).await;
    assert_done(&connection.answer().await.unwrap());
    spellings.assert_marked("no length").await;
}

/// A form in chunks of HTTP/1.1, of this many bytes each.
fn in_chunks(form: &str, size: usize) -> String {
    let mut chunks = String::new();
    for chunk in form.as_bytes().chunks(size) {
        let chunk = str::from_utf8(chunk).unwrap();
        write!(chunks, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
    }
    chunks + "0\r\n\r\n"
}

#[tokio::test]
async fn a_body_may_come_in_chunks() {
    let mut spellings = Spellings::start().await;
    let (start, end) = EXAMPLE.split_at(30);
    let length = EXAMPLE.len();
    for chunks in [
        format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n\r\n"),
        format!("{length:X};name=value\r\n{EXAMPLE}\r\n0\r\n\r\n"),
        format!("000{length:x}\r\n{EXAMPLE}\r\n000\r\n\r\n"),
        format!("1e\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n", end.len()),
        format!("{length:x}\r\n{EXAMPLE}\r\n0\r\nx-trailer: recipient_id=1\r\n\r\n"),
        in_chunks(EXAMPLE, 1),
    ] {
        for coding in ["chunked", "Chunked"] {
            let request = HttpRequest::form(chunks.clone()).header("transfer-encoding", coding);
            spellings.assert_served(request, Version::Http1).await;
        }
    }
    // In frames of HTTP/2, a byte each.
    let reader = spellings.next_reader();
    let raw = Raw::to(&spellings.server).await;
    let mut open = HttpRequest::form("").of(reader).begin_on(&raw).await.unwrap();
    for byte in EXAMPLE.bytes() {
        open.body.send_data(vec![byte].into(), false).unwrap();
    }
    // With trailers, which are ignored.
    let trailers = [("recipient_id".parse().unwrap(), "1".parse().unwrap())];
    open.body.send_trailers(trailers.into_iter().collect()).unwrap();
    assert_done(&open.answer().await.unwrap());
    spellings.assert_marked("frames").await;
}

/// A valid form of this length: any number of unknown parameters is ignored.
fn form_of(length: usize) -> String {
    let mut form = format!("{EXAMPLE}&x=");
    form.push_str(&"y".repeat(length - form.len()));
    form
}

#[tokio::test]
async fn a_body_of_8_kib_is_served_and_one_byte_more_is_too_large() {
    let mut spellings = Spellings::start().await;
    let chunked = |form: &str, size: usize| {
        HttpRequest::form(in_chunks(form, size)).header("transfer-encoding", "chunked")
    };
    let (fits, over) = (form_of(MAX), form_of(MAX + 1));
    let length = |form: &str| {
        HttpRequest::form(form.to_owned()).header("content-length", &form.len().to_string())
    };
    for (fits, over, version) in [
        (length(&fits), length(&over), Version::Http1),
        (length(&fits), length(&over), Version::Http2),
        (HttpRequest::form(fits.clone()), HttpRequest::form(over.clone()), Version::Http2),
        (chunked(&fits, MAX + 1), chunked(&over, MAX + 1), Version::Http1),
        (chunked(&fits, 100), chunked(&over, 100), Version::Http1),
        (chunked(&fits, 8191), chunked(&over, MAX), Version::Http1),
    ] {
        spellings.assert_served(fits, version).await;
        let reader = spellings.next_reader();
        assert_refused(&over.of(reader).over(version, &spellings.server).await, 413, &[44]);
        assert_eq!(spellings.redis.used(reader).await, None);
    }
    // As many parameters as fit.
    for many in ["a&", "&", "a=b&", "%61&"] {
        let body = many.repeat((MAX - EXAMPLE.len()) / many.len()) + EXAMPLE;
        for version in BOTH {
            spellings.assert_served(HttpRequest::form(body.clone()), version).await;
        }
    }
    // A query's length is bounded by that of the head.
    for version in BOTH {
        spellings.assert_served(HttpRequest::query(&form_of(MAX + 1)), version).await;
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let mut spellings = Spellings::start().await;
    let mut connection = Http1::to(&spellings.server).await;
    for _ in 0..2 {
        let request =
            HttpRequest::form(EXAMPLE).header("expect", "100-continue").of(spellings.next_reader());
        let sent = request.bytes();
        let (head, body) = sent.split_at(sent.len() - EXAMPLE.len());
        connection.write(head).await;
        assert_eq!(connection.answer().await.unwrap().status, 100);
        connection.write(body).await;
        assert_done(&connection.answer().await.unwrap());
        spellings.assert_marked("100-continue").await;
    }
    // A request that is refused for its head is refused at once.
    for (request, status, code) in [
        (HttpRequest::form(form_of(8193)), 413, 44),
        (HttpRequest::form(EXAMPLE).header("content-type", "text/plain"), 415, 44),
        (HttpRequest::form(EXAMPLE).target("/"), 404, 34),
    ] {
        let mut connection = Http1::to(&spellings.server).await;
        let sent = request.header("expect", "100-continue").bytes();
        let head = sent.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        connection.write(&sent[..head + 4]).await;
        assert_refused(&connection.answer().await.unwrap(), status, &[code]);
    }
}
