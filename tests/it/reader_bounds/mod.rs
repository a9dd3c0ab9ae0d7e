//! What one reader may have under way: calls, pages and batches, watches, and scans of the backlog.

use std::time::Duration;

use markread_harness::caller::{Credentials, Refusal, number};
use markread_harness::raw::{self, OpenCall};
use markread_harness::{Raw, Redis, Server, eventually};
use tonic::Code;

use crate::answers::{assert_denied, retry_delay};

mod backlog;
mod bursts;
mod denied_reads;
mod places;
mod watches;

/// A call without the end of its message: it keeps its place.
async fn begin(raw: &Raw, method: &str, reader: u64) -> OpenCall {
    let path = format!("/markread.v1.MarkReadService/{method}");
    raw.begin(raw.grpc(&path, &Credentials::token_of(reader))).await.unwrap()
}

/// Waits until a call of the method finds no place.
async fn places_are_taken(raw: &Raw, method: &str, reader: u64) {
    let path = format!("/markread.v1.MarkReadService/{method}");
    eventually("no place is free", Duration::from_secs(3), async || {
        let head = raw.grpc(&path, &Credentials::token_of(reader)).header("grpc-timeout", "50m");
        // An invalid mark and a page cost no quota of marks.
        let answer = raw.send(head, raw::frame(b"")).await.unwrap();
        (answer.grpc_status().code() == Code::DeadlineExceeded).then_some(())
    })
    .await;
}

#[track_caller]
fn assert_too_many(denied: &Refusal) {
    assert_denied(denied, Code::ResourceExhausted, "CONCURRENCY_LIMIT_EXCEEDED");
    let delay = retry_delay(denied);
    assert!((100..=1000).contains(&delay.as_millis()), "{delay:?}");
    let pushback = number(&denied.metadata, "grpc-retry-pushback-ms");
    assert_eq!(u128::try_from(pushback).unwrap(), delay.as_millis());
    assert!(denied.metadata.get("x-rate-limit-limit").is_none(), "it costs no quota");
}

/// How much a bound has refused.
async fn refused(server: &Server, bound: &str) -> f64 {
    let series = format!("markread_refused_total{{bound=\"{bound}\"}}");
    server.metric(&series).await.expect(bound)
}

/// Adds entries to the stream that concern nobody who watches.
async fn fill_stream(redis: &Redis, entries: u64) {
    let script = format!(
        "for n=1,{entries} do redis.call('XADD','direct_message_mark_read_events','*','x',n) end"
    );
    let mut eval = redis::cmd("EVAL");
    eval.arg(script).arg(0);
    eval.query_async::<()>(&mut redis.connection().await).await.unwrap();
}
