//! Bodies that are far too large, and lengths that HTTP/2 knows better.

use super::super::bad_input::{Target, until_closed};
use super::super::harness::raw::Raw;
use super::bad_lengths::{assert_refused_or_cut, request};
use super::client::Ask;
use super::{EXAMPLE, assert_refused};

#[tokio::test]
async fn a_body_of_megabytes_is_too_large_sent_or_only_announced() {
    const MIB: usize = 1024 * 1024;
    let target = Target::start().await;
    let form = format!("{EXAMPLE}&x={}", "y".repeat(5 * MIB));
    let length = form.len();
    for (what, bytes) in [
        ("announced", request("content-length: 9000000000", "")),
        ("sent", request(&format!("content-length: {length}"), &form)),
        ("in one chunk", request("transfer-encoding: chunked", &format!("{length:x}\r\n{form}"))),
        ("in chunks", request("transfer-encoding: chunked", &"64\r\n&".repeat(100_000))),
    ] {
        let heard = until_closed(&target.server.address, &bytes).await;
        assert_refused_or_cut(&heard, what);
        let heard = String::from_utf8_lossy(&heard);
        // What is still being sent may meet a reset, and the answer be lost with it.
        assert!(what != "announced" || heard.starts_with("HTTP/1.1 413"), "{what}: {heard}");
    }
    let raw = Raw::to(&target.server).await;
    let announced = Ask::form("").header("content-length", "9000000000");
    let answer = announced.begin_on(&raw).await.unwrap().answer().await;
    assert_refused(&answer.expect("an answer, no reset"), 413, &[44]);
    match Ask::form(form).on(&raw).await {
        Ok(answer) => assert_refused(&answer, 413, &[44]),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn over_http_2_a_content_length_that_lies_is_reset_or_refused() {
    let target = Target::start().await;
    let raw = Raw::to(&target.server).await;
    let length = EXAMPLE.len();
    for told in [length - 1, length + 1, 0, 8192] {
        match Ask::form(EXAMPLE).header("content-length", &told.to_string()).on(&raw).await {
            Ok(answer) => assert!(answer.status.is_client_error(), "{told}: {answer:?}"),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{told}: {error}"),
        }
    }
    for told in ["-1", "x", "", "62, 62", "18446744073709551678"] {
        let raw = Raw::to(&target.server).await;
        match Ask::form(EXAMPLE).header("content-length", told).on(&raw).await {
            Ok(answer) => assert!(answer.status.is_client_error(), "{told}: {answer:?}"),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{told}: {error}"),
        }
    }
    target.assert_unharmed_after(0).await;
}
