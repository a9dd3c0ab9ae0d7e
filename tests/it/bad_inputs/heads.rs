//! Heads of gRPC calls: content types, methods, paths, metadata; and the other services.

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT};

use super::{Section, assert_keys, code, grpc};
use crate::bad_input::Target;

fn valid() -> Vec<u8> {
    raw::frame(&raw::request(RECIPIENT, MESSAGE))
}

fn token() -> String {
    match Credentials::token_of(READER) {
        Credentials::Authorization(value) => value,
        other => panic!("{other:?}"),
    }
}

async fn content_types(section: &mut Section, raw: &Raw) {
    for content_type in [
        Some("application/json"),
        Some("application/grpc+json"),
        Some("application/grpc-web"),
        Some("application/grpcx"),
        Some(""),
        None,
    ] {
        let mut head = raw.post(MARK_READ).header("authorization", token());
        let mut what = "no `content-type`".to_owned();
        if let Some(content_type) = content_type {
            head = head.header("content-type", content_type);
            what = format!("`content-type: {content_type}`").replace(": `", ":`");
        }
        section.row(&[&what, &grpc(&raw.send(head, valid()).await)]);
    }
}

async fn methods_and_paths(section: &mut Section, raw: &Raw) {
    let reader = Credentials::token_of(READER);
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let head = raw.grpc(MARK_READ, &reader).method(method);
        section.row(&[&format!("the HTTP method {method}"), &grpc(&raw.send(head, valid()).await)]);
    }
    for path in [
        "/markread.v1.MarkReadService/MarkUnread",
        "/markread.v1.MarkReadService/markread",
        "/markread.v1.MarkReadService/",
        "/markread.v2.MarkReadService/MarkRead",
        "/MarkRead",
        "//markread.v1.MarkReadService/MarkRead",
        "/markread.v1.MarkReadService/MarkRead/",
        "/markread.v1.MarkReadService/%4DarkRead",
    ] {
        let answer = raw.send(raw.grpc(path, &reader), valid()).await;
        section.row(&[&format!("the path {}", code(path)), &grpc(&answer)]);
    }
    let head = raw.post("/unknown").header("authorization", token());
    let answer = raw.send(head, valid()).await;
    section.row(&["the path `/unknown`, without the content type of gRPC", &grpc(&answer)]);
}

/// Metadata, of which some is ignored. Returns how many calls were served.
async fn metadata(section: &mut Section, target: &Target) -> u64 {
    let mut served = 0;
    for (what, name, value) in [
        ("`grpc-timeout: x`: ignored", "grpc-timeout", "x"),
        ("`grpc-timeout: -1S`: ignored", "grpc-timeout", "-1S"),
        ("`grpc-timeout: 999999999S` (9 digits): ignored", "grpc-timeout", "999999999S"),
        ("`grpc-timeout: 0n`", "grpc-timeout", "0n"),
        ("`traceparent: garbage`: ignored", "traceparent", "garbage"),
        ("a `tracestate` of 2,000 bytes: ignored", "tracestate", &"a=b,".repeat(500)),
        ("`x-user-id` of another user beside a token: ignored", "x-user-id", "7"),
        ("a header of 17 KiB", "x-large", &"x".repeat(17 * 1024)),
        ("a second `authorization`", "authorization", "Bearer x"),
    ] {
        let raw = target.raw().await;
        let head = raw.grpc(MARK_READ, &Credentials::token_of(READER)).header(name, value);
        let answer = grpc(&raw.send(head, valid()).await);
        served += u64::from(answer == "OK");
        section.row(&[what, &answer]);
    }
    served
}

async fn other_services(section: &mut Section, target: &Target) {
    let nobody = Credentials::Nothing;
    let raw = target.raw().await;
    let check = "/grpc.health.v1.Health/Check";
    let unknown = raw::frame(&[&[1 << 3 | 2, 7][..], b"unknown"].concat());
    for (what, path, body) in [
        ("`Health/Check` of a service that is unknown", check, unknown),
        ("`Health/Check` of 5 KiB", check, raw::frame(&vec![0; 5 * 1024])),
        ("`Health/Check` that is not protobuf", check, raw::frame(&[0xff; 3])),
        ("`Health/Check`, compressed", check, vec![1, 0, 0, 0, 0]),
        ("`Health/Checks`, which does not exist", "/grpc.health.v1.Health/Checks", raw::frame(&[])),
    ] {
        section.row(&[what, &grpc(&raw.send(raw.grpc(path, &nobody), body).await)]);
    }
    let watch = raw.grpc("/grpc.health.v1.Health/Watch", &nobody);
    let mut first = raw.begin(watch).await.unwrap();
    first.body.send_data(raw::frame(&[]).into(), true).unwrap();
    // The first watch is open once its head is there.
    let first = first.answer.await.unwrap();
    let watch = raw.grpc("/grpc.health.v1.Health/Watch", &nobody);
    let answer = raw.send(watch, raw::frame(&[])).await;
    section.row(&["a second `Health/Watch` of a service on a connection", &grpc(&answer)]);
    drop(first);
}

#[tokio::test]
async fn heads() {
    let mut section = Section::new(
        "Heads of a gRPC call",
        "A valid `MarkRead` over HTTP/2 with one fault in its head, and calls of the other services. What is ignored \
         is served, and counts.",
        &["what is sent", "answer"],
    );
    let target = Target::start().await;
    let raw = target.raw().await;
    content_types(&mut section, &raw).await;
    methods_and_paths(&mut section, &raw).await;
    other_services(&mut section, &target).await;
    assert_keys(&target.redis, &[]).await;
    let served = metadata(&mut section, &target).await;
    target.assert_unharmed_after(served).await;
    section.check();
}
