//! Malformed heads: targets, methods and headers that HTTP does not allow, and heads that are too
//! long.

use markread_harness::caller::Credentials;
use markread_harness::raw::Raw;
use markread_harness::{MESSAGE, READER, RECIPIENT};

use super::bad_lengths::assert_refused_or_cut;
use super::client::{BOTH, HttpRequest};
use super::{EXAMPLE, PATH, assert_refused};
use crate::bad_input::{Target, until_closed};

/// A request with this first line and these headers, valid otherwise, that closes the connection.
fn with_start(start: &str) -> String {
    let request = HttpRequest::form(EXAMPLE).header("connection", "close");
    let sent = String::from_utf8(request.bytes()).unwrap();
    let (_, rest) = sent.split_once("\r\n").unwrap();
    format!("{start}\r\n{rest}")
}

#[tokio::test]
async fn a_malformed_first_line_is_refused_or_cut() {
    let target = Target::start().await;
    let path_and_query = format!("{PATH}?{EXAMPLE}");
    for start in [
        format!("POST {PATH}"),
        format!("POST {PATH} HTTP/1.2"),
        format!("POST {PATH} HTTP/2.0"),
        format!("POST {PATH} http/1.1"),
        format!("POST {PATH} HTTP/1.1 x"),
        format!("POST  {PATH} HTTP/1.1x"),
        format!("POST\t{PATH}\tHTTP/1.1"),
        format!("P\u{0}ST {PATH} HTTP/1.1"),
        format!("POST: {PATH} HTTP/1.1"),
        // Characters that no target may have.
        format!("POST {PATH}?recipient_id= 7 HTTP/1.1"),
        format!("POST {PATH} {EXAMPLE} HTTP/1.1"),
        format!("POST {PATH}\u{0} HTTP/1.1"),
        format!("POST {PATH}?recipient_id=\u{1} HTTP/1.1"),
        format!("POST {} HTTP/1.1", &PATH[1..]),
        format!("POST markread.test{PATH} HTTP/1.1"),
        format!("POST ?{EXAMPLE} HTTP/1.1"),
        format!("POST http:{PATH} HTTP/1.1"),
        format!("POST http://{PATH} HTTP/1.1"),
        format!("POST file://{PATH} HTTP/1.1"),
        "POST * HTTP/1.1".to_owned(),
        "POST  HTTP/1.1".to_owned(),
        "OPTIONS * HTTP/1.1".to_owned(),
        "CONNECT markread.test:443 HTTP/1.1".to_owned(),
        format!("CONNECT {PATH} HTTP/1.1"),
        format!("CONNECT {path_and_query} HTTP/1.1"),
    ] {
        let received = until_closed(&target.server.address, with_start(&start).as_bytes()).await;
        assert_refused_or_cut(&received, &start);
    }
    target.assert_unharmed_after(0).await;
}

/// No target may have a fragment (RFC 9112, 3.2), so its contents are never read.
#[tokio::test]
async fn a_fragment_is_refused_or_ignored() {
    let target = Target::start().await;
    let request_bytes = |target: &str, body: &str| {
        let request = HttpRequest::form(body.to_owned()).target(target);
        request.header("connection", "close").bytes()
    };
    for what in ["#", &format!("#?{EXAMPLE}"), &format!("#&{EXAMPLE}"), &format!("?x#&{EXAMPLE}")] {
        let sent = request_bytes(&format!("{PATH}{what}"), "");
        assert_refused_or_cut(&until_closed(&target.server.address, &sent).await, what);
    }
    let sent = request_bytes(&format!("{PATH}?{EXAMPLE}#1&recipient_id=1"), "");
    let received = until_closed(&target.server.address, &sent).await;
    let served = received.starts_with(b"HTTP/1.1 204");
    let cursors = target.redis.cursors(READER).await;
    assert_eq!(cursors, if served { [(RECIPIENT, MESSAGE)].into() } else { [].into() });
    target.assert_unharmed_after(u64::from(served)).await;
}

#[tokio::test]
async fn a_query_of_raw_bytes_is_refused_or_cut() {
    let target = Target::start().await;
    for (no_id, what) in [("٣", "Arabic"), ("１", "wide"), ("\u{feff}7", "a mark of byte order")]
    {
        for query in [
            format!("last_read_event_id=7&recipient_id={no_id}"),
            format!("last_read_event_id={no_id}&recipient_id=7"),
        ] {
            let sent = HttpRequest::query(&query).header("connection", "close").bytes();
            let received = until_closed(&target.server.address, &sent).await;
            assert_refused_or_cut(&received, what);
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_malformed_header_is_refused_or_cut() {
    let target = Target::start().await;
    let sent = with_start(&format!("POST {PATH} HTTP/1.1"));
    for line in [
        "no colon",
        ": no name",
        "name : value",
        " folded: at once",
        "folded: a\r\n b",
        "nul: \u{0}",
        "control: \u{1}",
        "carriage: a\rb",
        "näme: value",
        "na me: value",
        "content-type: text/plain\u{7f}",
    ] {
        let (start, rest) = sent.split_once("\r\n").unwrap();
        let sent = format!("{start}\r\n{line}\r\n{rest}");
        let received = until_closed(&target.server.address, sent.as_bytes()).await;
        assert_refused_or_cut(&received, line);
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_head_over_16_kib_is_431_or_cut() {
    let target = Target::start().await;
    let assert_too_large = |received: &[u8], what: &str| {
        let received = String::from_utf8_lossy(received);
        let refused =
            ["HTTP/1.1 431", "HTTP/1.1 414"].iter().any(|start| received.starts_with(start));
        assert!(received.is_empty() || refused, "{what}: {received}");
    };
    let mut served = 0;
    for (kib, fits) in [(8, true), (12, true), (17, false), (20, false), (60, false)] {
        let long = "x".repeat(kib * 1024);
        let in_many = (0..50).fold(HttpRequest::form(EXAMPLE), |request, n| {
            request.header(&format!("x-part-{n}"), &long[..long.len() / 50])
        });
        for request in [
            HttpRequest::form(EXAMPLE).header("x-large", &long),
            in_many,
            HttpRequest::form(EXAMPLE).target(&format!("{PATH}?x={long}")),
            HttpRequest::query(&format!("{EXAMPLE}&x={long}")),
        ] {
            if fits {
                for version in BOTH {
                    let answer = request.over(version, &target.server).await;
                    assert_eq!(answer.status, 204, "{kib} KiB: {answer:?}");
                    served += 1;
                }
                continue;
            }
            let sent = request.clone().header("connection", "close").bytes();
            let received = until_closed(&target.server.address, &sent).await;
            assert_too_large(&received, &format!("{kib} KiB"));
            // Longer paths keep h2's decoder busy for a second in a build without optimization.
            if kib < 20 {
                match request.on(&Raw::to(&target.server).await).await {
                    Ok(answer) => assert_eq!(answer.status, 431, "{kib} KiB"),
                    Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
                }
            }
        }
    }
    target.assert_unharmed_after(served).await;
}

#[tokio::test]
async fn an_authorization_of_any_bytes_is_401() {
    let target = Target::start().await;
    for value in ["", " ", "Bearer ", "Bearer \u{e9}", "Bearer a b", ",", "=", "\u{e9}\u{e9}"] {
        for version in BOTH {
            let request =
                HttpRequest::form(EXAMPLE).by(&Credentials::Authorization(value.to_owned()));
            let answer = request.over(version, &target.server).await;
            assert_eq!(answer.status, 401, "{value:?}: {answer:?}");
            let codes = answer.error_codes();
            assert!(codes == [32] || codes == [89], "{value:?}: {answer:?}");
            assert_refused(&answer, 401, &codes);
        }
    }
    target.assert_unharmed_after(0).await;
}

/// RFC 9112, 3.2: a server must refuse both.
#[tokio::test]
async fn a_host_that_is_missing_or_given_twice_is_refused() {
    let target = Target::start().await;
    let request = HttpRequest::form(EXAMPLE).header("connection", "close");
    let sent = String::from_utf8(request.bytes()).unwrap();
    let (start, rest) = sent.split_once("\r\n").unwrap();
    let is_host = |line: &&str| line.to_lowercase().starts_with("host:");
    let host = rest.split_inclusive("\r\n").find(is_host).unwrap();
    let without = format!("{start}\r\n{}", rest.replacen(host, "", 1));
    let twice = format!("{start}\r\n{host}{rest}");
    let two = format!("{start}\r\nhost: other.test\r\n{rest}");
    for sent in [without, twice, two] {
        let received = until_closed(&target.server.address, sent.as_bytes()).await;
        let received = String::from_utf8_lossy(&received);
        assert!(received.starts_with("HTTP/1.1 400 "), "{sent}: {received}");
    }
    target.assert_unharmed_after(0).await;
}
