//! Bodies that are far too large, and a `content-length` that contradicts HTTP/2's framing.

use markread_harness::raw::Raw;

use super::bad_lengths::{assert_refused_or_cut, request_bytes};
use super::client::HttpRequest;
use super::{EXAMPLE, assert_refused};
use crate::bad_input::{Target, until_closed};

#[tokio::test]
async fn a_body_of_megabytes_is_too_large_sent_or_only_announced() {
    const MIB: usize = 1024 * 1024;
    let target = Target::start().await;
    let form = format!("{EXAMPLE}&x={}", "y".repeat(5 * MIB));
    let length = form.len();
    for (what, bytes) in [
        ("announced", request_bytes("content-length: 9000000000", "")),
        ("sent", request_bytes(&format!("content-length: {length}"), &form)),
        (
            "in one chunk",
            request_bytes("transfer-encoding: chunked", &format!("{length:x}\r\n{form}")),
        ),
        ("in chunks", request_bytes("transfer-encoding: chunked", &"64\r\n&".repeat(100_000))),
    ] {
        let received = until_closed(&target.server.address, &bytes).await;
        assert_refused_or_cut(&received, what);
        let received = String::from_utf8_lossy(&received);
        // A reset while the body is being sent may lose the answer.
        assert!(what != "announced" || received.starts_with("HTTP/1.1 413"), "{what}: {received}");
    }
    let raw = Raw::to(&target.server).await;
    let announced = HttpRequest::form("").header("content-length", "9000000000");
    let answer = announced.begin_on(&raw).await.unwrap().answer().await;
    assert_refused(&answer.expect("an answer, not a reset"), 413, &[44]);
    match HttpRequest::form(form).on(&raw).await {
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
    for length in [length - 1, length + 1, 0, 8192] {
        match HttpRequest::form(EXAMPLE)
            .header("content-length", &length.to_string())
            .on(&raw)
            .await
        {
            Ok(answer) => assert!(answer.status.is_client_error(), "{length}: {answer:?}"),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{length}: {error}"),
        }
    }
    for length in ["-1", "x", "", "62, 62", "18446744073709551678"] {
        let raw = Raw::to(&target.server).await;
        match HttpRequest::form(EXAMPLE).header("content-length", length).on(&raw).await {
            Ok(answer) => assert!(answer.status.is_client_error(), "{length}: {answer:?}"),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{length}: {error}"),
        }
    }
    target.assert_unharmed_after(0).await;
}
