//! Bodies whose length is a lie or a riddle: a 4xx or a closed connection, and nothing served.

use std::time::{Duration, Instant};

use super::super::bad_input::{Target, until_closed};
use super::super::harness::caller::Credentials;
use super::super::harness::{MESSAGE, READER, RECIPIENT};
use super::client::Ask;
use super::{EXAMPLE, parameters};

/// A valid request, but for these lines of its head and this body.
pub(super) fn request(lines: &str, body: &str) -> Vec<u8> {
    let ask = Ask::form(EXAMPLE).header("content-length", "0");
    let said = String::from_utf8(ask.bytes()).unwrap();
    let (head, _) = said.split_once("\r\n\r\n").unwrap();
    format!("{}\r\n{lines}\r\n\r\n{body}", head.replace("\r\ncontent-length: 0", "")).into_bytes()
}

/// Nothing but refusals, until the server closed.
#[track_caller]
pub(super) fn assert_refused_or_cut(heard: &[u8], what: &str) {
    let heard = String::from_utf8_lossy(heard);
    assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{what}: {heard}");
    let answers = heard.matches("HTTP/1.1 ").count();
    assert_eq!(heard.matches("HTTP/1.1 4").count(), answers, "{what}: {heard}");
}

/// Sends all of them side by side, since those that end too early are waited for.
async fn assert_all_refused_or_cut(target: &Target, cases: Vec<(String, Vec<u8>)>) {
    let mut asked = tokio::task::JoinSet::new();
    for (what, bytes) in cases {
        let address = target.server.address.clone();
        asked.spawn(async move {
            let began = Instant::now();
            let heard = until_closed(&address, &bytes).await;
            (what, heard, began.elapsed())
        });
    }
    for (what, heard, took) in asked.join_all().await {
        assert_refused_or_cut(&heard, &what);
        // The call timeout is a second.
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
    }
}

#[tokio::test]
async fn a_content_length_that_lies_or_is_no_number_is_refused_or_cut() {
    let target = Target::start().await;
    let length = EXAMPLE.len();
    let lines = [
        format!("content-length: {}", length + 1),
        format!("content-length: {}", length + 1000),
        "content-length: 8192".to_owned(),
        "content-length: 9223372036854775807".to_owned(),
        "content-length: 18446744073709551615".to_owned(),
        "content-length: 18446744073709551616".to_owned(),
        // 2^64 more than it is.
        format!("content-length: {}", (1_u128 << 64) + u128::try_from(length).unwrap()),
        // What is behind it is no request.
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
    let cases = lines.map(|lines| (lines.clone(), request(&lines, EXAMPLE)));
    assert_all_refused_or_cut(&target, cases.into()).await;
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_transfer_encoding_that_is_not_chunked_once_is_refused_or_cut() {
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
        lines.into_iter().map(|lines| (lines.to_owned(), request(lines, &chunks))).collect();
    let both = format!("transfer-encoding: identity\r\ncontent-length: {length}");
    cases.push((both.clone(), request(&both, EXAMPLE)));
    let old = String::from_utf8(request("transfer-encoding: chunked", &chunks)).unwrap();
    cases.push(("HTTP/1.0".to_owned(), old.replace("HTTP/1.1", "HTTP/1.0").into_bytes()));
    assert_all_refused_or_cut(&target, cases).await;
    target.assert_unharmed_after(0).await;
}

/// RFC 9112, section 6.1: refused, or read by its chunks alone; and either way the connection is
/// closed, as what comes behind may be another's.
#[tokio::test]
async fn a_length_told_in_both_ways_ends_the_connection() {
    let target = Target::start().await;
    let chunks = format!("{:x}\r\n{EXAMPLE}\r\n0\r\n\r\n", EXAMPLE.len());
    let behind = Ask::form(parameters(RECIPIENT + 1, MESSAGE)).bytes();
    let mut served = 0;
    for told in [4, chunks.len(), chunks.len() + behind.len(), chunks.len() + 100] {
        for lines in [
            format!("transfer-encoding: chunked\r\ncontent-length: {told}"),
            format!("content-length: {told}\r\ntransfer-encoding: chunked"),
        ] {
            let said = [request(&lines, &chunks), behind.clone()].concat();
            let heard = until_closed(&target.server.address, &said).await;
            let heard = String::from_utf8_lossy(&heard);
            if heard.starts_with("HTTP/1.1 204") {
                served += 1;
                assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{lines}: {heard}");
            } else {
                assert_refused_or_cut(heard.as_bytes(), &lines);
            }
        }
    }
    let cursors = target.redis.cursors(READER).await;
    assert!(!cursors.contains_key(&(RECIPIENT + 1)), "nothing that came behind was taken");
    assert!(served == 0 || cursors == [(RECIPIENT, MESSAGE)].into(), "{cursors:?}");
    target.assert_unharmed_after(served).await;
}

#[tokio::test]
async fn what_stands_in_the_body_of_a_refused_request_is_no_request() {
    let target = Target::start().await;
    let hidden = Ask::form(EXAMPLE).bytes();
    let chunks = [format!("{:x}\r\n", hidden.len()).as_bytes(), &hidden, b"\r\n0\r\n\r\n"].concat();
    let padded = [hidden.clone(), vec![b'x'; 9 * 1024]].concat();
    let padding = "x".repeat(9 * 1024).into_bytes();
    for ask in [
        Ask::form(hidden.clone()),
        Ask::form(hidden.clone()).by(&Credentials::Nothing),
        Ask::form(hidden.clone()).header("content-type", "text/plain"),
        Ask::form(hidden.clone()).target("/unknown"),
        Ask::form(hidden.clone()).method("GET"),
        Ask::form(chunks.clone()).header("transfer-encoding", "chunked"),
        Ask::form(chunks).header("transfer-encoding", "chunked").method("PUT"),
        Ask::form(padded),
        Ask::form([padding, hidden].concat()),
    ] {
        // What is behind it may be served, once, or fall with the connection.
        let nobodys = Ask::form(EXAMPLE).by(&Credentials::Nothing).header("connection", "close");
        let said = [ask.bytes(), nobodys.bytes()].concat();
        let heard = until_closed(&target.server.address, &said).await;
        assert_refused_or_cut(&heard, &format!("{ask:?}"));
        let answers = String::from_utf8_lossy(&heard).matches("HTTP/1.1 ").count();
        assert!(answers <= 2, "{ask:?}: {answers}");
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn chunks_that_are_broken_are_refused_or_cut() {
    let target = Target::start().await;
    let length = EXAMPLE.len();
    let end = "\r\n0\r\n\r\n";
    let cases = [
        ("a size that is no number", format!("zz\r\n{EXAMPLE}{end}")),
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
        ("lines that end otherwise", format!("{length:x}\n{EXAMPLE}\n0\n\n")),
        ("no end", format!("{length:x}\r\n{EXAMPLE}\r\n")),
        ("half an end", format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n")),
        ("an end that is none", format!("{length:x}\r\n{EXAMPLE}\r\n0\r\nx")),
        ("an endless extension", format!("{length:x};{}\r\n{EXAMPLE}{end}", "x".repeat(100_000))),
        (
            "endless trailers",
            format!("{length:x}\r\n{EXAMPLE}\r\n0\r\n{}", "a: b\r\n".repeat(9999)),
        ),
    ];
    let cases = cases
        .map(|(what, chunks)| (what.to_owned(), request("transfer-encoding: chunked", &chunks)));
    assert_all_refused_or_cut(&target, cases.into()).await;
    target.assert_unharmed_after(0).await;
}
