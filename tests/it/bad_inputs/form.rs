//! `POST /1.1/direct_messages/mark_read.json`: parameters, heads, and HTTP/1.1 that is malformed.

use markread_harness::Server;
use markread_harness::raw::MARK_READ;

use super::{Section, assert_keys, code, http, status_and_codes};
use crate::bad_input::{Target, until_closed};
use crate::http_edge::EXAMPLE;
use crate::http_edge::PATH;
use crate::http_edge::client::{HttpRequest, Version};

/// The answer, which is the same over HTTP/1.1 and HTTP/2.
async fn answer(server: &Server, request: &HttpRequest) -> String {
    let first = http(&request.over(Version::Http1, server).await);
    let second = http(&request.over(Version::Http2, server).await);
    assert_eq!(first, second, "{request:?}");
    first
}

/// Bodies with missing and invalid parameters.
const BODIES: [&str; 44] = [
    "",
    "recipient_id=7",
    "last_read_event_id=7",
    "recipient_id=&last_read_event_id=",
    "recipient_id&last_read_event_id=7",
    "last_read_event_id=7&Recipient_ID=7",
    "last_read_event_id=7&recipientId=7",
    "last_read_event_id=7&recipient_id[]=7",
    "last_read_event_id=7&+recipient_id=7",
    "last_read_event_id=7;recipient_id=7",
    "{\"last_read_event_id\":7,\"recipient_id\":7}",
    "last_read_event_id=x",
    "last_read_event_id=7&recipient_id=0",
    "last_read_event_id=7&recipient_id=007",
    "last_read_event_id=7&recipient_id=-1",
    "last_read_event_id=7&recipient_id=%2B1",
    "last_read_event_id=7&recipient_id=+1",
    "last_read_event_id=7&recipient_id=1+",
    "last_read_event_id=7&recipient_id=1%0A",
    "last_read_event_id=7&recipient_id=1%00",
    "last_read_event_id=7&recipient_id=1.0",
    "last_read_event_id=7&recipient_id=1e3",
    "last_read_event_id=7&recipient_id=0x10",
    "last_read_event_id=7&recipient_id=1_000",
    "last_read_event_id=7&recipient_id=1,000",
    "last_read_event_id=7&recipient_id=NaN",
    "last_read_event_id=7&recipient_id=null",
    "last_read_event_id=7&recipient_id=me",
    "last_read_event_id=7&recipient_id=\"1\"",
    "last_read_event_id=7&recipient_id=%D9%A3",
    "last_read_event_id=7&recipient_id=%EF%BC%91",
    "last_read_event_id=7&recipient_id=%",
    "last_read_event_id=7&recipient_id=1%zz",
    "last_read_event_id=7&recipient_id=%C0%B1",
    "last_read_event_id=7&recipient_id=%2531",
    "last_read_event_id=7&recipient_id=9223372036854775808",
    "last_read_event_id=7&recipient_id=18446744073709551617",
    "last_read_event_id=9223372036854775808&recipient_id=7",
    "last_read_event_id=0&recipient_id=0",
    "last_read_event_id=8754578330382663743.0&recipient_id=7",
    "last_read_event_id=7&recipient_id=7&recipient_id=7",
    "last_read_event_id=7&recipient_id=7&recipient_id=8",
    "last_read_event_id=7&recipient_id=7&recipient%5Fid=8",
    "last_read_event_id=7&recipient_id=7 ",
];

#[tokio::test]
async fn parameters() {
    let mut section = Section::new(
        "Parameters of the form",
        "`POST /1.1/direct_messages/mark_read.json` with valid credentials, over HTTP/1.1 and HTTP/2. Nothing is \
         stored and no quota is used.",
        &["body", "answer"],
    );
    let target = Target::start().await;
    for body in BODIES {
        let what = if body.is_empty() { "none".to_owned() } else { code(body) };
        section.row(&[&what, &answer(&target.server, &HttpRequest::form(body)).await]);
    }
    let digits = format!("last_read_event_id=7&recipient_id={}", "9".repeat(4000));
    let bytes = [b"last_read_event_id=7&recipient_id=7".as_slice(), &[0xff]].concat();
    for (what, body) in [
        ("`recipient_id` of 4,000 digits", digits.into_bytes()),
        ("`recipient_id` that ends with the byte 255", bytes),
    ] {
        section.row(&[what, &answer(&target.server, &HttpRequest::form(body)).await]);
    }
    for (query, body) in [
        ("recipient_id=7", "last_read_event_id=7&recipient_id=8"),
        ("recipient_id=7", "last_read_event_id=7&recipient_id=07"),
        ("recipient_id=7&recipient_id=7", "last_read_event_id=7"),
        ("user_id=7", "last_read_event_id=7"),
    ] {
        let request = HttpRequest::form(body).target(&format!("{PATH}?{query}"));
        let what = format!("{}, with the query {}", code(body), code(query));
        section.row(&[&what, &answer(&target.server, &request).await]);
    }
    assert_keys(&target.redis, &[]).await;
    target.assert_unharmed_after(0).await;
    section.check();
}

/// Requests with a fault in their heads, or with a body of another kind.
fn wrong_heads() -> Vec<(String, HttpRequest)> {
    let valid = || HttpRequest::form(EXAMPLE);
    let mut requests = Vec::new();
    for content_type in [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/x-www-form-urlencodedx",
        "",
    ] {
        let what = format!("`content-type: {content_type}`").replace(": `", ":`");
        requests.push((what, valid().header("content-type", content_type)));
    }
    requests.push(("a body without a `content-type`".to_owned(), valid().without("content-type")));
    for encoding in ["gzip", "br", "gzip, gzip"] {
        let what = format!("`content-encoding: {encoding}`");
        requests.push((what, valid().header("content-encoding", encoding)));
    }
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW"] {
        requests.push((format!("the method {method}"), valid().method(method)));
    }
    for path in [
        "/",
        "/1.1/direct_messages/mark_read",
        "/1.1/direct_messages/mark_read.json/",
        "/1.1/direct_messages/mark_read.JSON",
        "/1.1/direct_messages//mark_read.json",
        "/1.1/direct_messages/mark%5Fread.json",
        "/1.1/direct_messages/../direct_messages/mark_read.json",
        "/1/direct_messages/mark_read.json",
    ] {
        requests.push((format!("the path {}", code(path)), valid().target(path)));
    }
    let large = format!("{EXAMPLE}&x={}", "y".repeat(8 * 1024));
    requests.push(("a form of more than 8 KiB".to_owned(), HttpRequest::form(large)));
    requests
}

#[tokio::test]
async fn heads() {
    let mut section = Section::new(
        "Heads of the form",
        "A valid form with one fault in its head, over HTTP/1.1 and HTTP/2. Nothing is stored and no quota is used.",
        &["what is sent", "answer"],
    );
    let target = Target::start().await;
    for (what, request) in wrong_heads() {
        section.row(&[&what, &answer(&target.server, &request).await]);
    }
    assert_keys(&target.redis, &[]).await;
    target.assert_unharmed_after(0).await;
    section.check();
}

/// What a server sent until it closed: one answer, or nothing.
fn received(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        assert!(text.is_empty(), "{text}");
        return "closed".to_owned();
    };
    let answers =
        text.split("HTTP/1.1 ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(answers.count(), 1, "one answer: {text}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    format!("{}; closed", status_and_codes(status, body))
}

/// The lines of a valid request between the first line and its end, without those that frame its body.
fn lines() -> String {
    let request = HttpRequest::form(EXAMPLE).header("connection", "close").bytes();
    let text = String::from_utf8(request).unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let lines = head.split("\r\n").skip(1).filter(|line| !line.starts_with("content-length"));
    lines.flat_map(|line| [line, "\r\n"]).collect()
}

fn malformed() -> Vec<(String, String)> {
    let (lines, length) = (lines(), EXAMPLE.len());
    let first = format!("POST {PATH} HTTP/1.1\r\n");
    let framed = |framing: &str, body: &str| format!("{first}{lines}{framing}\r\n{body}");
    let headed = |line: &str| framed(&format!("content-length: {length}\r\n{line}\r\n"), EXAMPLE);
    let started =
        |start: &str| format!("{start}\r\n{lines}content-length: {length}\r\n\r\n{EXAMPLE}");
    let hosts = |host: &str| {
        let others: Vec<_> =
            lines.split_inclusive("\r\n").filter(|it| !it.starts_with("host")).collect();
        format!("{first}{host}{}content-length: {length}\r\n\r\n{EXAMPLE}", others.concat())
    };
    let chunked = "transfer-encoding: chunked\r\n";
    [
        ("not HTTP: `GARBAGE`".to_owned(), "GARBAGE\r\n\r\n".to_owned()),
        ("HTTP/1.2".to_owned(), started(&format!("POST {PATH} HTTP/1.2"))),
        (
            "a path without its first slash".to_owned(),
            started(&format!("POST {} HTTP/1.1", &PATH[1..])),
        ),
        ("a space in the query".to_owned(), started(&format!("POST {PATH}?a= b HTTP/1.1"))),
        ("`CONNECT markread.test:443`".to_owned(), started("CONNECT markread.test:443 HTTP/1.1")),
        ("`OPTIONS *`".to_owned(), started("OPTIONS * HTTP/1.1")),
        ("a header without a colon".to_owned(), headed("no colon")),
        ("a space before the colon of a header".to_owned(), headed("name : value")),
        ("a header that goes on in the next line".to_owned(), headed("folded: a\r\n b")),
        ("the byte 0 in a header".to_owned(), headed("nul: \u{0}")),
        ("a header of 17 KiB".to_owned(), headed(&format!("x-large: {}", "x".repeat(17 * 1024)))),
        ("101 headers".to_owned(), headed(&vec!["a: b"; 101].join("\r\n"))),
        ("no `host`".to_owned(), hosts("")),
        ("two `host`".to_owned(), hosts("host: markread.test\r\nhost: other.test\r\n")),
        ("`content-length: -1`".to_owned(), framed("content-length: -1\r\n", EXAMPLE)),
        ("`content-length: 62x`".to_owned(), framed("content-length: 62x\r\n", EXAMPLE)),
        (
            "two `content-length` that differ".to_owned(),
            framed(&format!("content-length: {length}\r\ncontent-length: 1\r\n"), EXAMPLE),
        ),
        (
            "`content-length` of 2^64".to_owned(),
            framed("content-length: 18446744073709551616\r\n", ""),
        ),
        (
            "`content-length` of 9 GB, without the body".to_owned(),
            framed("content-length: 9000000000\r\n", ""),
        ),
        (
            "`content-length` beside `transfer-encoding: chunked`: the chunks are read, which have no parameters"
                .to_owned(),
            framed(&format!("content-length: {length}\r\n{chunked}"), "0\r\n\r\n"),
        ),
        ("`transfer-encoding: gzip`".to_owned(), framed("transfer-encoding: gzip\r\n", EXAMPLE)),
        (
            "`transfer-encoding: gzip, chunked`".to_owned(),
            framed("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ),
        ("a chunk whose length is not hexadecimal".to_owned(), framed(chunked, "x\r\n")),
        (
            "a body that is not complete within `--call-timeout`".to_owned(),
            framed(&format!("content-length: {}\r\n", length + 1), EXAMPLE),
        ),
        ("a head that is not complete within `--handshake-timeout`".to_owned(), first.clone()),
        ("a gRPC path over HTTP/1.1".to_owned(), started(&format!("POST {MARK_READ} HTTP/1.1"))),
    ]
    .into()
}

#[tokio::test]
async fn malformed_http_1() {
    let mut section = Section::new(
        "Malformed HTTP/1.1",
        "A valid form, but for one fault, over HTTP/1.1. Nothing is stored and no quota is used.",
        &["what is sent", "answer"],
    );
    let target = Target::start().await;
    for (what, request) in malformed() {
        let answer = until_closed(&target.server.address, request.as_bytes()).await;
        section.row(&[&what, &received(&answer)]);
    }
    assert_keys(&target.redis, &[]).await;
    target.assert_unharmed_after(0).await;
    section.check();
}
