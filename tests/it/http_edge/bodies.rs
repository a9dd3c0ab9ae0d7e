//! How a body may be framed, and how long it may be.

use std::fmt::Write;

use super::super::harness::Raw;
use super::client::{Ask, BOTH, Http1, Version};
use super::spellings::Spellings;
use super::{EXAMPLE, FORM, assert_done, assert_refused};

/// The longest body, in bytes.
const MAX: usize = 8 * 1024;

#[tokio::test]
async fn a_body_that_is_empty_needs_no_content_type_and_may_have_any() {
    let mut spellings = Spellings::start().await;
    for content_type in ["application/json", "text/plain", "multipart/form-data; boundary=x", FORM]
    {
        let ask = Ask::query(EXAMPLE).header("content-type", content_type);
        for version in BOTH {
            spellings.assert_served(ask.clone(), version).await;
        }
        spellings
            .assert_served(ask.header("transfer-encoding", "chunked").body("0\r\n\r\n"), BOTH[0])
            .await;
    }
    // Over HTTP/1.1 without a word about its length; over HTTP/2 with none, and with no frame.
    let ask = Ask::query(EXAMPLE).of(spellings.next_reader());
    let said = String::from_utf8(ask.bytes()).unwrap().replace("content-length: 0\r\n", "");
    let mut connection = Http1::to(&spellings.server).await;
    connection.say(said.as_bytes()).await;
    assert_done(&connection.answer().await.unwrap());
    spellings.assert_marked("no length").await;
}

/// In chunks of HTTP/1.1, of this many bytes each.
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
            let ask = Ask::form(chunks.clone()).header("transfer-encoding", coding);
            spellings.assert_served(ask, Version::Http1).await;
        }
    }
    // And in frames of HTTP/2, a byte each.
    let reader = spellings.next_reader();
    let raw = Raw::to(&spellings.server).await;
    let mut open = Ask::form("").of(reader).begin_on(&raw).await.unwrap();
    for byte in EXAMPLE.bytes() {
        open.body.send_data(vec![byte].into(), false).unwrap();
    }
    // With trailers, which say nothing.
    let trailers = [("recipient_id".parse().unwrap(), "1".parse().unwrap())];
    open.body.send_trailers(trailers.into_iter().collect()).unwrap();
    assert_done(&open.answer().await.unwrap());
    spellings.assert_marked("frames").await;
}

/// Its unknown parameters are ignored, however many they are.
fn form_of(length: usize) -> String {
    let mut form = format!("{EXAMPLE}&x=");
    form.push_str(&"y".repeat(length - form.len()));
    form
}

#[tokio::test]
async fn a_body_of_8_kib_is_served_and_one_byte_more_is_too_large() {
    let mut spellings = Spellings::start().await;
    let chunked = |form: &str, size: usize| {
        Ask::form(in_chunks(form, size)).header("transfer-encoding", "chunked")
    };
    let (fits, over) = (form_of(MAX), form_of(MAX + 1));
    let length =
        |form: &str| Ask::form(form.to_owned()).header("content-length", &form.len().to_string());
    for (fits, over, version) in [
        (length(&fits), length(&over), Version::Http1),
        (length(&fits), length(&over), Version::Http2),
        (Ask::form(fits.clone()), Ask::form(over.clone()), Version::Http2),
        (chunked(&fits, MAX + 1), chunked(&over, MAX + 1), Version::Http1),
        (chunked(&fits, 100), chunked(&over, 100), Version::Http1),
        (chunked(&fits, 8191), chunked(&over, MAX), Version::Http1),
    ] {
        spellings.assert_served(fits, version).await;
        let reader = spellings.next_reader();
        assert_refused(&over.of(reader).over(version, &spellings.server).await, 413, &[44]);
        assert_eq!(spellings.redis.used(reader).await, None);
    }
    // Of parameters, as many as there is room for.
    for many in ["a&", "&", "a=b&", "%61&"] {
        let body = many.repeat((MAX - EXAMPLE.len()) / many.len()) + EXAMPLE;
        for version in BOTH {
            spellings.assert_served(Ask::form(body.clone()), version).await;
        }
    }
    // A query's length is the head's matter.
    for version in BOTH {
        spellings.assert_served(Ask::query(&form_of(MAX + 1)), version).await;
    }
}

#[tokio::test]
async fn a_client_that_waits_before_it_sends_its_body_is_told_to_go_on() {
    let mut spellings = Spellings::start().await;
    let mut connection = Http1::to(&spellings.server).await;
    for _ in 0..2 {
        let ask = Ask::form(EXAMPLE).header("expect", "100-continue").of(spellings.next_reader());
        let said = ask.bytes();
        let (head, body) = said.split_at(said.len() - EXAMPLE.len());
        connection.say(head).await;
        assert_eq!(connection.answer().await.unwrap().status, 100);
        connection.say(body).await;
        assert_done(&connection.answer().await.unwrap());
        spellings.assert_marked("100-continue").await;
    }
    // What is refused for its head is refused at once.
    for (ask, status, code) in [
        (Ask::form(form_of(8193)), 413, 44),
        (Ask::form(EXAMPLE).header("content-type", "text/plain"), 415, 44),
        (Ask::form(EXAMPLE).target("/"), 404, 34),
    ] {
        let mut connection = Http1::to(&spellings.server).await;
        let said = ask.header("expect", "100-continue").bytes();
        let head = said.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        connection.say(&said[..head + 4]).await;
        assert_refused(&connection.answer().await.unwrap(), status, &[code]);
    }
}
