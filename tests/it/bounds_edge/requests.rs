//! Requests that are incomplete: what they hold, and how long.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::raw::{MARK_READ, OpenCall, frame, request};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Server, eventually};
use tokio::time::sleep;
use tonic::Code;

use super::{LIMIT, assert_refusal, begin, memory_kib, refused_by};

/// Begins calls, and sends the same bytes on each.
async fn half_sent(raw: &Raw, calls: usize, bytes: &[u8]) -> Vec<OpenCall> {
    let mut held = Vec::new();
    for _ in 0..calls {
        let mut call = begin(raw, MARK_READ).await;
        call.body.send_data(bytes.to_vec().into(), false).unwrap();
        held.push(call);
    }
    held
}

#[tokio::test]
async fn a_head_reserves_nothing() {
    const CALLS: u64 = 40 * 250;
    let server = Server::dev(&["--call-timeout", "10m"]).await;
    let before = memory_kib(&server);
    let mut held = Vec::new();
    for _ in 0..CALLS / 250 {
        let raw = Raw::to(&server).await;
        // A message of 64 KiB is announced.
        held.push((half_sent(&raw, 250, &[0, 0, 1, 0, 0]).await, raw));
    }
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let each = (memory_kib(&server) - before) / CALLS;
    assert!(each < 32, "{each} KiB a call");
}

#[tokio::test]
async fn incomplete_requests_share_a_budget() {
    // A sixteenth of it is 4 MiB: about 64 of 60 KB.
    let limit = ["--memory-limit", "64MiB", "--call-timeout", "10m"];
    let server = Server::dev(&limit).await;
    let raw = Raw::to(&server).await;
    let half = [&[0, 0, 1, 0, 0][..], &vec![0; 60_000]].concat();
    let held = half_sent(&raw, 100, &half).await;
    eventually("one too many is refused", LIMIT, async || {
        (refused_by(&server, "request_bytes").await >= 1.0).then_some(())
    })
    .await;
    let mut refused = 0;
    let mut kept = Vec::new();
    for call in held {
        tokio::select! {
            biased;
            answer = call.answer => {
                let status = tonic::Status::from_header_map(answer.unwrap().headers()).unwrap();
                assert_refusal(&status.into(), "OVERLOADED");
                refused += 1;
            }
            () = sleep(Duration::from_millis(50)) => kept.push(call.body),
        }
    }
    assert!(refused > 0 && kept.len() > 30, "{refused} refused, {} kept", kept.len());
    // A request that is complete at once needs no share.
    let whole = frame(&request(RECIPIENT, MESSAGE));
    let marked = raw.send(raw.grpc(MARK_READ, &Credentials::UserId(READER)), whole).await.unwrap();
    assert_eq!(marked.grpc_status().code(), Code::Ok);
    // Those that were hung up give theirs back.
    for mut body in kept {
        body.send_reset(h2::Reason::CANCEL);
    }
    eventually("their memory is free", LIMIT, async || {
        let held = half_sent(&raw, 30, &half).await;
        let before = refused_by(&server, "request_bytes").await;
        sleep(Duration::from_millis(200)).await;
        drop(held);
        (refused_by(&server, "request_bytes").await <= before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn half_a_watch_ends_with_the_call_timeout() {
    let server = Server::dev(&["--call-timeout", "500ms"]).await;
    let raw = Raw::to(&server).await;
    for path in
        [super::CHECK, super::WATCH, MARK_READ, "/markread.v1.MarkReadService/WatchMarkReadEvents"]
    {
        let mut call = begin(&raw, path).await;
        call.body.send_data(vec![0, 0].into(), false).unwrap();
        let refused = call.answer().await.unwrap().refusal();
        assert_eq!(refused.code, Code::DeadlineExceeded, "{path}");
    }
}
