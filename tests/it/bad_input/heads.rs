//! Heads of requests: content types, methods, paths, metadata, HTTP/1.1.

use std::time::{Duration, Instant};

use markread_harness::raw::{MARK_READ, error_codes};
use markread_harness::server::http1;
use tonic::Code;

use super::{Target, reader, until_closed, valid_frame};

const KIB: usize = 1024;

#[tokio::test]
async fn a_content_type_other_than_grpc_is_unsupported() {
    let target = Target::start().await;
    let raw = target.raw().await;
    for content_type in [
        Some("text/plain"),
        Some("application/json"),
        Some("application/grpc+json"),
        Some("application/grpc-web"),
        Some("application/grpc-web+proto"),
        Some("application/x-www-form-urlencoded"),
        Some("application/grpcx"),
        Some(""),
        None,
    ] {
        let mut head = raw.post(MARK_READ);
        if let Some(content_type) = content_type {
            head = head.header("content-type", content_type);
        }
        let answer = raw.send(head, valid_frame()).await.unwrap();
        assert_eq!(answer.status, 415, "{content_type:?}");
        assert_eq!(answer.error_codes(), [44]);
        assert_eq!(answer.head["content-type"], "application/json");
    }
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let super::Credentials::Authorization(token) = reader() else { panic!("a token") };
        let head = raw.post(MARK_READ).header("content-type", content_type);
        let answer = raw.send(head.header("authorization", token), valid_frame()).await.unwrap();
        assert_eq!(answer.grpc_status().code(), Code::Ok, "{content_type}");
    }
    target.assert_unharmed_after(2).await;
}

#[tokio::test]
async fn a_method_other_than_post_is_not_allowed() {
    let target = Target::start().await;
    let raw = target.raw().await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = raw.send(raw.post(MARK_READ).method(method), "").await.unwrap();
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.head["allow"], "POST");
        if method != "HEAD" {
            assert_eq!(answer.error_codes(), [86]);
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let target = Target::start().await;
    let raw = target.raw().await;
    for path in ["/", "/unknown", "/markread.v1.MarkReadService/Unknown", "/a?b=c"] {
        for head in [raw.post(path), raw.post(path).method("GET")] {
            let answer = raw.send(head, "").await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.error_codes()), (404, vec![34]), "{path}");
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn plain_http_1_gets_a_status_and_a_reason() {
    let target = Target::start().await;
    let close = "host: h\r\nconnection: close\r\n";
    let ask = async |request: String| {
        let (head, body) = http1(&target.server.address, &request).await.expect("an answer");
        (head.split(' ').nth(1).unwrap().to_owned(), head.to_lowercase(), body)
    };
    for path in ["/", "/unknown", "/1.1/unknown.json", "/%00", "/../../etc/passwd", "/?a=b"] {
        let (status, _, body) = ask(format!("GET {path} HTTP/1.1\r\n{close}\r\n")).await;
        assert_eq!((status.as_str(), error_codes(&body)), ("404", vec![34]), "{path}");
    }
    let (status, head, body) = ask(format!("GET {MARK_READ} HTTP/1.1\r\n{close}\r\n")).await;
    assert_eq!((status.as_str(), error_codes(&body)), ("405", vec![86]));
    assert!(head.contains("\r\nallow: post"), "{head}");
    for content_type in ["application/grpc", "application/json"] {
        let (status, _, body) = ask(format!(
            "POST {MARK_READ} HTTP/1.1\r\n{close}content-type: {content_type}\r\n\
             content-length: 2\r\n\r\n{{}}"
        ))
        .await;
        assert_eq!((status.as_str(), error_codes(&body)), ("415", vec![44]), "{content_type}");
    }
    let (status, ..) = ask("GET / HTTP/1.0\r\n\r\n".to_owned()).await;
    assert_eq!(status, "404");
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn malformed_http_1_is_refused_or_cut() {
    let target = Target::start().await;
    let long = "x".repeat(100 * KIB);
    let cases = [
        "GARBAGE\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\na: \u{0}\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: h\r\na: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(1000)),
        // Requests that do not end within the handshake timeout of a second.
        "GET / HTTP/1.1\r\nhost: h\r\n".to_owned(),
        "G".to_owned(),
        String::new(),
    ];
    for case in cases {
        let answer = until_closed(&target.server.address, case.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        let refused = ["HTTP/1.1 400", "HTTP/1.1 414", "HTTP/1.1 431", "HTTP/1.1 408"];
        let refused = refused.into_iter().any(|status| answer.starts_with(status));
        assert!(answer.is_empty() || refused, "{:?}: {answer}", &case[..case.len().min(40)]);
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn metadata_over_16_kib_is_refused_and_the_next_call_is_served() {
    let target = Target::start().await;
    let mut served = 0;
    for (size, fits) in [(8, true), (12, true), (17, false), (20, false), (64, false), (100, false)]
    {
        // In one header and in many.
        for parts in [1, 50] {
            let raw = target.raw().await;
            let mut head = raw.grpc(MARK_READ, &reader());
            for part in 0..parts {
                head = head.header(format!("x-part-{part}"), "x".repeat(size * KIB / parts));
            }
            match raw.send(head, valid_frame()).await {
                Ok(answer) if fits => {
                    assert_eq!(answer.grpc_status().code(), Code::Ok, "{size} KiB");
                    served += 1;
                }
                Ok(answer) => assert_eq!(answer.status, 431, "{size} KiB: {answer:?}"),
                Err(error) => assert!(!fits, "{size} KiB: {error}"),
            }
            let next = target.raw().await.mark_read(super::READER, valid_frame()).await;
            assert_eq!(next.grpc_status().code(), Code::Ok);
            served += 1;
        }
    }
    target.assert_unharmed_after(served).await;
}

#[tokio::test]
async fn a_malformed_grpc_timeout_is_ignored() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let timeouts = [
        "",
        " ",
        "m",
        "1",
        "0",
        "abc",
        "1x",
        "-1m",
        "+1m",
        "1.5S",
        "123456789m",
        "1 m",
        "m1",
        "18446744073709551616n",
        "１S",
    ];
    for timeout in timeouts {
        let head = raw.grpc(MARK_READ, &reader()).header("grpc-timeout", timeout.as_bytes());
        let answer = raw.send(head, valid_frame()).await.unwrap();
        assert_eq!(answer.grpc_status().code(), Code::Ok, "{timeout:?}");
    }
    target.assert_unharmed_after(u64::try_from(timeouts.len()).unwrap()).await;
}

#[tokio::test]
async fn metadata_of_any_bytes_does_no_harm() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let names = ["traceparent", "tracestate", "x-user-id", "user-agent", "grpc-accept-encoding"];
    let values: [&[u8]; 6] = [b"", b"\xff\xfe", b"\"'{}%s", b"00-0-0-0", &[b'9'; 4096], b"\t"];
    let mut served = 0;
    for name in names {
        for value in values {
            let head = raw.grpc(MARK_READ, &reader()).header(name, value);
            let answer = raw.send(head, valid_frame()).await.unwrap();
            assert_eq!(answer.grpc_status().code(), Code::Ok, "{name}: {value:?}");
            served += 1;
        }
    }
    let began = Instant::now();
    let head = raw.grpc(MARK_READ, &super::Credentials::Nothing);
    let answer = raw.send(head.header("authorization", &b"Bearer \xff\xfe"[..]), "").await;
    assert_eq!(answer.unwrap().refusal().reason, "CREDENTIALS_INVALID");
    assert!(began.elapsed() < Duration::from_secs(5));
    target.assert_unharmed_after(served).await;
}
