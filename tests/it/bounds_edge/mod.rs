//! What callers may cost before anyone knows who they are: memory, half-sent requests, streams without a
//! caller, Health; and the operators' port, which answers whatever else is refused.

use std::time::Duration;

use markread_harness::caller::{Credentials, Refusal};
use markread_harness::raw::OpenCall;
use markread_harness::{READER, Raw, Server};

mod health;
mod logs;
mod memory;
mod ops_port;
mod reflection;
mod requests;
mod start;

/// Longer than anything takes, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Begins a call without a body.
async fn begin(raw: &Raw, path: &str) -> OpenCall {
    let head = raw.grpc(path, &Credentials::UserId(READER));
    raw.begin(head).await.expect("the stream is accepted")
}

/// How often a bound has refused something.
async fn refused_by(server: &Server, bound: &str) -> f64 {
    let series = format!("markread_refused_total{{bound=\"{bound}\"}}");
    server.metric(&series).await.expect("every bound has a series")
}

#[track_caller]
fn assert_refusal(denied: &Refusal, reason: &str) {
    assert_eq!((denied.code, denied.reason.as_str()), (tonic::Code::ResourceExhausted, reason));
    let delay = denied.details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay >= Duration::from_secs(1), "{delay:?}");
}

/// The anonymous memory of a server, in KiB.
fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse().unwrap()
}
