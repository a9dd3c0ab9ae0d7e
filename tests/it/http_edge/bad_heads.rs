//! Heads that are no request of the edge: targets, methods and lines that HTTP does not have, and
//! too much of it all.

use super::super::bad_input::{Target, until_closed};
use super::super::harness::caller::Credentials;
use super::super::harness::raw::Raw;
use super::super::harness::{MESSAGE, READER, RECIPIENT};
use super::bad_lengths::assert_refused_or_cut;
use super::client::{Ask, BOTH};
use super::{EXAMPLE, PATH, assert_refused};

/// A valid request whose first line and host are these, which closes behind it.
fn with_start(start: &str) -> String {
    let ask = Ask::form(EXAMPLE).header("connection", "close");
    let said = String::from_utf8(ask.bytes()).unwrap();
    let (_, rest) = said.split_once("\r\n").unwrap();
    format!("{start}\r\n{rest}")
}

#[tokio::test]
async fn a_first_line_that_is_none_is_refused_or_cut() {
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
        // No target has these.
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
        let heard = until_closed(&target.server.address, with_start(&start).as_bytes()).await;
        assert_refused_or_cut(&heard, &start);
    }
    target.assert_unharmed_after(0).await;
}

/// No target has one (RFC 9112, section 3.2), and what stands in it is never looked at.
#[tokio::test]
async fn a_fragment_is_refused_or_as_if_it_were_not_there() {
    let target = Target::start().await;
    let said = |target: &str, body: &str| {
        let ask = Ask::form(body.to_owned()).target(target);
        ask.header("connection", "close").bytes()
    };
    for what in ["#", &format!("#?{EXAMPLE}"), &format!("#&{EXAMPLE}"), &format!("?x#&{EXAMPLE}")] {
        let said = said(&format!("{PATH}{what}"), "");
        assert_refused_or_cut(&until_closed(&target.server.address, &said).await, what);
    }
    let said = said(&format!("{PATH}?{EXAMPLE}#1&recipient_id=1"), "");
    let heard = until_closed(&target.server.address, &said).await;
    let served = heard.starts_with(b"HTTP/1.1 204");
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
            let said = Ask::query(&query).header("connection", "close").bytes();
            let heard = until_closed(&target.server.address, &said).await;
            assert_refused_or_cut(&heard, what);
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_header_that_is_none_is_refused_or_cut() {
    let target = Target::start().await;
    let said = with_start(&format!("POST {PATH} HTTP/1.1"));
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
        let (start, rest) = said.split_once("\r\n").unwrap();
        let said = format!("{start}\r\n{line}\r\n{rest}");
        let heard = until_closed(&target.server.address, said.as_bytes()).await;
        assert_refused_or_cut(&heard, line);
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_head_over_16_kib_is_431_or_cut() {
    let target = Target::start().await;
    let assert_too_large = |heard: &[u8], what: &str| {
        let heard = String::from_utf8_lossy(heard);
        let refused = ["HTTP/1.1 431", "HTTP/1.1 414"].iter().any(|start| heard.starts_with(start));
        assert!(heard.is_empty() || refused, "{what}: {heard}");
    };
    let mut served = 0;
    for (kib, fits) in [(8, true), (12, true), (17, false), (20, false), (60, false)] {
        let long = "x".repeat(kib * 1024);
        let in_many = (0..50).fold(Ask::form(EXAMPLE), |ask, n| {
            ask.header(&format!("x-part-{n}"), &long[..long.len() / 50])
        });
        for ask in [
            Ask::form(EXAMPLE).header("x-large", &long),
            in_many,
            Ask::form(EXAMPLE).target(&format!("{PATH}?x={long}")),
            Ask::query(&format!("{EXAMPLE}&x={long}")),
        ] {
            if fits {
                for version in BOTH {
                    let answer = ask.over(version, &target.server).await;
                    assert_eq!(answer.status, 204, "{kib} KiB: {answer:?}");
                    served += 1;
                }
                continue;
            }
            let said = ask.clone().header("connection", "close").bytes();
            let heard = until_closed(&target.server.address, &said).await;
            assert_too_large(&heard, &format!("{kib} KiB"));
            // Longer paths keep h2's decoder busy for a second, in a build that is not optimized.
            if kib < 20 {
                match ask.on(&Raw::to(&target.server).await).await {
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
            let ask = Ask::form(EXAMPLE).by(&Credentials::Authorization(value.to_owned()));
            let answer = ask.over(version, &target.server).await;
            assert_eq!(answer.status, 401, "{value:?}: {answer:?}");
            let codes = answer.error_codes();
            assert!(codes == [32] || codes == [89], "{value:?}: {answer:?}");
            assert_refused(&answer, 401, &codes);
        }
    }
    target.assert_unharmed_after(0).await;
}

/// RFC 9112, section 3.2: a server must refuse either.
#[tokio::test]
async fn a_host_that_is_missing_or_given_twice_is_refused() {
    let target = Target::start().await;
    let ask = Ask::form(EXAMPLE).header("connection", "close");
    let said = String::from_utf8(ask.bytes()).unwrap();
    let (start, rest) = said.split_once("\r\n").unwrap();
    let is_host = |line: &&str| line.to_lowercase().starts_with("host:");
    let host = rest.split_inclusive("\r\n").find(is_host).unwrap();
    let without = format!("{start}\r\n{}", rest.replacen(host, "", 1));
    let twice = format!("{start}\r\n{host}{rest}");
    let two = format!("{start}\r\nhost: other.test\r\n{rest}");
    for said in [without, twice, two] {
        let heard = until_closed(&target.server.address, said.as_bytes()).await;
        let heard = String::from_utf8_lossy(&heard);
        assert!(heard.starts_with("HTTP/1.1 400 "), "{said}: {heard}");
    }
    target.assert_unharmed_after(0).await;
}
