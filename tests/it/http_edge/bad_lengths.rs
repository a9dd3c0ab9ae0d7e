//! Bodies with a wrong or ambiguous length: a 4xx or a closed connection, and nothing is served.

use std::time::{Duration, Instant};

use markread_harness::caller::Credentials;
use markread_harness::{MESSAGE, READER, RECIPIENT};

use super::client::HttpRequest;
use super::{EXAMPLE, parameters};
use crate::bad_input::{Target, until_closed};

/// A valid request, apart from these lines of its head and this body.
pub(super) fn request_bytes(lines: &str, body: &str) -> Vec<u8> {
    let request = HttpRequest::form(EXAMPLE).header("content-length", "0");
    let sent = String::from_utf8(request.bytes()).unwrap();
    let (head, _) = sent.split_once("\r\n\r\n").unwrap();
    format!("{}\r\n{lines}\r\n\r\n{body}", head.replace("\r\ncontent-length: 0", "")).into_bytes()
}

/// Asserts that the server sent refusals only, and closed.
#[track_caller]
pub(super) fn assert_refused_or_cut(received: &[u8], what: &str) {
    let received = String::from_utf8_lossy(received);
    assert!(received.is_empty() || received.starts_with("HTTP/1.1 4"), "{what}: {received}");
    let answers = received.matches("HTTP/1.1 ").count();
    assert_eq!(received.matches("HTTP/1.1 4").count(), answers, "{what}: {received}");
}

/// Sends all of them at the same time, since the server waits for those that end too early.
async fn assert_all_refused_or_cut(target: &Target, cases: Vec<(String, Vec<u8>)>) {
    let mut asked = tokio::task::JoinSet::new();
    for (what, bytes) in cases {
        let address = target.server.address.clone();
        asked.spawn(async move {
            let began = Instant::now();
            let received = until_closed(&address, &bytes).await;
            (what, received, began.elapsed())
        });
    }
    for (what, received, took) in asked.join_all().await {
        assert_refused_or_cut(&received, &what);
        // The call timeout is a second.
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
    }
}

#[tokio::test]
async fn a_wrong_or_invalid_content_length_is_refused_or_cut() {
    let target = Target::start().await;
    let length = EXAMPLE.len();
    let lines = [
        format!("content-length: {}", length + 1),
        format!("content-length: {}", length + 1000),
        "content-length: 8192".to_owned(),
        "content-length: 9223372036854775807".to_owned(),
        "content-length: 18446744073709551615".to_owned(),
        "content-length: 18446744073709551616".to_owned(),
        // 2^64 more than the true length.
        format!("content-length: {}", (1_u128 << 64) + u128::try_from(length).unwrap()),
        // The rest is not a valid request.
        "content-length: 10".to_owned(),
        "content-length: 0".to_owned(),
        format!("content-length: -{length}"),
        format!("content-length: +{length}"),
        format!("content-length: {length}.0"),
        format!("content-length: 0x{length:x}"),
        format!("content-length: {length} bytes"),
        format!("content-length: {length},"),
        "content-length: x".to_owned(),
        "content-length:".to_owned(),
        format!("content-length: {length}\r\ncontent-length: {}", length - 1),
        format!("content-length: {}\r\ncontent-length: {length}", length + 1),
        format!("content-length: {length}, {}", length - 1),
        format!("content-length: {length}\r\ncontent-length: x"),
        format!("content-length: 0\r\nContent-Length: {length}"),
    ];
    let cases = lines.map(|lines| (lines.clone(), request_bytes(&lines, EXAMPLE)));
    assert_all_refused_or_cut(&target, cases.into()).await;
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_transfer_encoding_other_than_chunked_is_refused_or_cut() {
    let target = Target::start().await;
    let length = EXAMPLE.len();
    let chunks = format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n\r\n");
    let lines = [
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked,chunked",
        "transfer-encoding: chunked\r\nTransfer-Encoding: identity",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity",
        "transfer-encoding: gzip",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunkedx",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \u{b}chunked",
        "transfer-encoding:",
        "transfer-encoding: x",
    ];
    let mut cases: Vec<_> =
        lines.into_iter().map(|lines| (lines.to_owned(), request_bytes(lines, &chunks))).collect();
    let both = format!("transfer-encoding: identity\r\ncontent-length: {length}");
    cases.push((both.clone(), request_bytes(&both, EXAMPLE)));
    let old = String::from_utf8(request_bytes("transfer-encoding: chunked", &chunks)).unwrap();
    cases.push(("HTTP/1.0".to_owned(), old.replace("HTTP/1.1", "HTTP/1.0").into_bytes()));
    assert_all_refused_or_cut(&target, cases).await;
    target.assert_unharmed_after(0).await;
}

/// RFC 9112, 6.1: refused, or read by its chunks alone; either way the connection is closed, since
/// the bytes that follow may belong to another request.
#[tokio::test]
async fn a_length_given_in_both_ways_ends_the_connection() {
    let target = Target::start().await;
    let chunks = format!("{:x}\r\n{EXAMPLE}\r\n0\r\n\r\n", EXAMPLE.len());
    let behind = HttpRequest::form(parameters(RECIPIENT + 1, MESSAGE)).bytes();
    let mut served = 0;
    for length in [4, chunks.len(), chunks.len() + behind.len(), chunks.len() + 100] {
        for lines in [
            format!("transfer-encoding: chunked\r\ncontent-length: {length}"),
            format!("content-length: {length}\r\ntransfer-encoding: chunked"),
        ] {
            let sent = [request_bytes(&lines, &chunks), behind.clone()].concat();
            let received = until_closed(&target.server.address, &sent).await;
            let received = String::from_utf8_lossy(&received);
            if received.starts_with("HTTP/1.1 204") {
                served += 1;
                assert_eq!(received.matches("HTTP/1.1 ").count(), 1, "{lines}: {received}");
            } else {
                assert_refused_or_cut(received.as_bytes(), &lines);
            }
        }
    }
    let cursors = target.redis.cursors(READER).await;
    assert!(!cursors.contains_key(&(RECIPIENT + 1)), "the bytes that follow are not served");
    assert!(served == 0 || cursors == [(RECIPIENT, MESSAGE)].into(), "{cursors:?}");
    target.assert_unharmed_after(served).await;
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_not_read_as_a_request() {
    let target = Target::start().await;
    let hidden = HttpRequest::form(EXAMPLE).bytes();
    let chunks = [format!("{:x}\r\n", hidden.len()).as_bytes(), &hidden, b"\r\n0\r\n\r\n"].concat();
    let padded = [hidden.clone(), vec![b'x'; 9 * 1024]].concat();
    let padding = "x".repeat(9 * 1024).into_bytes();
    for request in [
        HttpRequest::form(hidden.clone()),
        HttpRequest::form(hidden.clone()).by(&Credentials::Nothing),
        HttpRequest::form(hidden.clone()).header("content-type", "text/plain"),
        HttpRequest::form(hidden.clone()).target("/unknown"),
        HttpRequest::form(hidden.clone()).method("GET"),
        HttpRequest::form(chunks.clone()).header("transfer-encoding", "chunked"),
        HttpRequest::form(chunks).header("transfer-encoding", "chunked").method("PUT"),
        HttpRequest::form(padded),
        HttpRequest::form([padding, hidden].concat()),
    ] {
        // The request that follows may be served once, or end with the connection.
        let nobodys =
            HttpRequest::form(EXAMPLE).by(&Credentials::Nothing).header("connection", "close");
        let sent = [request.bytes(), nobodys.bytes()].concat();
        let received = until_closed(&target.server.address, &sent).await;
        assert_refused_or_cut(&received, &format!("{request:?}"));
        let answers = String::from_utf8_lossy(&received).matches("HTTP/1.1 ").count();
        assert!(answers <= 2, "{request:?}: {answers}");
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn malformed_chunks_are_refused_or_cut() {
    let target = Target::start().await;
    let length = EXAMPLE.len();
    let end = "\r\n0\r\n\r\n";
    let cases = [
        ("a size that is not a number", format!("zz\r\n{EXAMPLE}{end}")),
        ("no size", format!("\r\n{EXAMPLE}{end}")),
        ("no chunk", EXAMPLE.to_owned()),
        ("a size with a sign", format!("+{length:x}\r\n{EXAMPLE}{end}")),
        ("a size below 0", format!("-{length:x}\r\n{EXAMPLE}{end}")),
        ("a size with 0x", format!("0x{length:x}\r\n{EXAMPLE}{end}")),
        ("a size past 64 bits", format!("100000000000000{length:02x}\r\n{EXAMPLE}{end}")),
        ("a size of gigabytes", format!("ffffffff\r\n{EXAMPLE}{end}")),
        ("a size too small", format!("{:x}\r\n{EXAMPLE}{end}", length - 1)),
        ("a size too large", format!("{:x}\r\n{EXAMPLE}{end}", length + 1)),
        ("a size past the end", format!("{:x}\r\n{EXAMPLE}{end}", length + 100)),
        ("no line after the data", format!("{length:x}\r\n{EXAMPLE}0\r\n\r\n")),
        ("lines that end with LF", format!("{length:x}\n{EXAMPLE}\n0\n\n")),
        ("no end", format!("{length:x}\r\n{EXAMPLE}\r\n")),
        ("half an end", format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n")),
        ("a malformed end", format!("{length:x}\r\n{EXAMPLE}\r\n0\r\nx")),
        ("an endless extension", format!("{length:x};{}\r\n{EXAMPLE}{end}", "x".repeat(100_000))),
        (
            "endless trailers",
            format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n{}", "a: b\r\n".repeat(9999)),
        ),
    ];
    let cases = cases.map(|(what, chunks)| {
        (what.to_owned(), request_bytes("transfer-encoding: chunked", &chunks))
    });
    assert_all_refused_or_cut(&target, cases.into()).await;
    target.assert_unharmed_after(0).await;
}
