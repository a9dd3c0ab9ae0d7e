//! Reflection: who may use it, and how much of it.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::operator::{Operator, grpcurl};
use markread_harness::raw::frame;
use markread_harness::{READER, Raw, Redis, Server, eventually};
use prost::Message;
use tokio::time::sleep;
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use super::{LIMIT, REFLECTION, assert_refusal, begin, memory_kib, refused_by};

fn ask(symbol: &str) -> Vec<u8> {
    let request = MessageRequest::FileContainingSymbol(symbol.to_owned());
    let request = ServerReflectionRequest { message_request: Some(request), host: String::new() };
    frame(&request.encode_to_vec())
}

#[tokio::test]
async fn a_connection_has_eight_streams() {
    let server = Server::dev(&[]).await;
    let operator = Operator::new(&server);
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(operator.open_reflection().await);
    }
    let raw = Raw::to(&server).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(begin(&raw, REFLECTION).await);
    }
    let refused = begin(&raw, REFLECTION).await.answer().await.unwrap().refusal();
    assert_refusal(&refused, "EDGE_LIMIT_EXCEEDED");
    assert!(refused_by(&server, "unidentified_streams").await >= 1.0);
    held.pop().unwrap().body.send_reset(h2::Reason::CANCEL);
    eventually("a place is free", LIMIT, async || {
        let mut call = begin(&raw, REFLECTION).await;
        call.body.send_data(ask("markread.v1.ReadCursor").into(), true).ok()?;
        (call.answer().await.ok()?.grpc_status().code() == Code::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn all_connections_together_have_512_streams() {
    let server = Server::dev(&[]).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let raw = Raw::to(&server).await;
        for _ in 0..8 {
            held.push(begin(&raw, REFLECTION).await);
        }
    }
    let raw = Raw::to(&server).await;
    let refused = begin(&raw, REFLECTION).await.answer().await.unwrap().refusal();
    assert_refusal(&refused, "OVERLOADED");
    drop(held);
    eventually("a place is free", LIMIT, async || {
        let mut call = begin(&raw, REFLECTION).await;
        call.body.send_data(ask("markread.v1.ReadCursor").into(), true).ok()?;
        (call.answer().await.ok()?.grpc_status().code() == Code::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_made() {
    let server = Server::dev(&[]).await;
    let raw = Raw::to(&server).await;
    let mut call = begin(&raw, REFLECTION).await;
    let before = memory_kib(&server);
    // 10,000 answers of several KB, as far as the server takes the requests: it stops reading them.
    let requests = ask("markread.v1.ReadCursor").repeat(10_000);
    call.body.send_data(requests.into(), false).unwrap();
    sleep(Duration::from_secs(2)).await;
    let grown = memory_kib(&server).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    assert_eq!(server.get("/livez").await.0, 200);
    // One that reads gets them all.
    let raw = Raw::to(&server).await;
    let mut call = begin(&raw, REFLECTION).await;
    let requests = ask("markread.v1.ReadCursor").repeat(200);
    call.body.send_data(requests.into(), true).unwrap();
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.grpc_status().code(), Code::Ok);
    let mut answers = 0;
    let mut rest = &answer.body[..];
    while let Some([_, length @ ..]) = rest.first_chunk::<5>() {
        let length = u32::from_be_bytes(*length);
        rest = &rest[5 + usize::try_from(length).unwrap()..];
        answers += 1;
    }
    assert_eq!(answers, 200);
}

#[tokio::test]
async fn bad_requests_of_a_stream_are_told() {
    let server = Server::dev(&[]).await;
    let raw = Raw::to(&server).await;
    let too_long = frame(&[0; 4097]);
    let compressed = [&[1], &ask("x")[1..]].concat();
    let garbage = frame(&[0xff; 10]);
    for (bytes, code) in [
        (too_long, Code::ResourceExhausted),
        (compressed, Code::Unimplemented),
        (garbage, Code::InvalidArgument),
        (ask("x")[..7].to_vec(), Code::InvalidArgument),
        (ask("no.such.Symbol"), Code::NotFound),
        (ask("markread.v1.ReadCursor"), Code::Ok),
    ] {
        let head = raw.grpc(REFLECTION, &Credentials::Nothing);
        let answer = raw.send(head, bytes.clone()).await.unwrap();
        assert_eq!(answer.grpc_status().code(), code, "{bytes:?}");
    }
}

#[tokio::test]
async fn reflection_can_be_off() {
    let server = Server::dev(&["--reflection", "off"]).await;
    let raw = Raw::to(&server).await;
    for path in [REFLECTION, &REFLECTION.replace("v1", "v1alpha"), "/nothing"] {
        let head = raw.grpc(path, &Credentials::Nothing);
        let answer = raw.send(head, ask("markread.v1.ReadCursor")).await.unwrap();
        assert_eq!(answer.grpc_status().code(), Code::Unimplemented, "{path}");
        let answer = raw.send(raw.post(path), "").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_codes()), (404, vec![34]), "{path}");
    }
}

#[tokio::test]
async fn reflection_can_be_for_authenticated_callers() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--reflection", "authenticated"]).await;
    let listed = grpcurl(&server, &[], &["list"]).await;
    assert!(!listed.status.success());
    let error = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(error.contains("no credentials"), "{error}");
    let Credentials::Authorization(token) = Credentials::token_of(READER) else { unreachable!() };
    let header = format!("authorization: {token}");
    let listed = grpcurl(&server, &["-H", &header], &["list"]).await;
    let services = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(services.contains("markread.v1.MarkReadService"), "{services}");
}
