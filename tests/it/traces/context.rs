//! Where a trace comes from, and where it is passed on.

use std::process::Stdio;
use std::time::Duration;

use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::{BatchMarkReadRequest, MarkReadRequest};
use markread_harness::binary::command;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::collector::Collector;
use markread_harness::operator::grpcurl;
use markread_harness::server::http1;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::{PARENT, TRACE, named, sampled, server, server_and_clients, traced, with};

const LIMIT: Duration = Duration::from_secs(10);

const PATH: &str = "/1.1/direct_messages/mark_read.json";

#[tokio::test]
async fn one_grpcurl_call_is_one_trace_down_to_the_stream() {
    let (redis, collector, server) = traced().await;
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let flags = [
        ["-H", &format!("authorization: {bearer}")],
        ["-H", &format!("traceparent: {}", sampled())],
        ["-H", "tracestate: vendor=value"],
        ["-d", &format!(r#"{{"last_read_event_id": "{MESSAGE}", "recipient_id": "{RECIPIENT}"}}"#)],
    ];
    let marked = grpcurl(&server, &flags.concat(), &["markread.v1.MarkReadService/MarkRead"]).await;
    assert!(marked.status.success(), "{marked:?}");

    let spans = collector.trace(TRACE, 3).await;
    let (call, clients) = server_and_clients(&spans);
    assert_eq!(call.parent, PARENT);
    assert_eq!(call.name, "markread.v1.MarkReadService/MarkRead");
    assert_eq!(call.state, "vendor=value");
    named(&clients, "EVALSHA mark_read");
    let payload = redis.payloads().await.remove(0);
    let traceparent = format!("00-{TRACE}-{}-01", call.id);
    let fields = [("payload".to_owned(), payload), ("traceparent".to_owned(), traceparent)];
    assert_eq!(redis.entries().await, [fields]);
}

#[tokio::test]
async fn http_requests_join_a_trace_too() {
    let (redis, collector, server) = traced().await;
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let request = format!(
        "POST {PATH}?recipient_id={RECIPIENT}&last_read_event_id={MESSAGE} HTTP/1.1\r\n\
         host: x\r\nauthorization: {bearer}\r\ntraceparent: {}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n",
        sampled(),
    );
    let (head, _) = http1(&server.address, &request).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    let spans = collector.trace(TRACE, 3).await;
    let (call, _) = server_and_clients(&spans);
    assert_eq!((&call.parent[..], &call.name[..]), (PARENT, &format!("POST {PATH}")[..]));
    assert_eq!(redis.entries().await[0][1].1, format!("00-{TRACE}-{}-01", call.id));
}

#[tokio::test]
async fn an_unsampled_trace_is_passed_on_and_not_sent() {
    const UNSAMPLED: &str = "00-11111111111111111111111111111111-2222222222222222-00";
    let (redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    for (message, traceparent) in [(1, UNSAMPLED), (2, &sampled())] {
        let request = caller.request(RECIPIENT, message);
        caller.send(with(request, &[("traceparent", traceparent)])).await.unwrap();
    }
    collector.trace(TRACE, 2).await;
    assert!(collector.spans().iter().all(|span| span.trace == TRACE), "{:#?}", collector.spans());
    assert_eq!(redis.entries().await[0][1], ("traceparent".to_owned(), UNSAMPLED.to_owned()));
}

#[tokio::test]
async fn without_a_valid_traceparent_a_new_trace_begins() {
    let (redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    let malformed = [
        None,
        Some("00-nonsense"),
        Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
    ];
    for (message, traceparent) in (1..).zip(malformed) {
        let headers: Vec<_> = traceparent.iter().map(|value| ("traceparent", *value)).collect();
        let request = with(caller.request(RECIPIENT, message), &headers);
        caller.send(request).await.unwrap();
    }
    let mut traces: Vec<String> = Vec::new();
    for fields in redis.entries().await {
        let traceparent: Vec<_> = fields[1].1.split('-').collect();
        let [_, trace, span, "01"] = traceparent[..] else { panic!("{fields:?}") };
        eventually("the span arrives", LIMIT, async || {
            let spans = collector.spans();
            spans.into_iter().find(|known| known.trace == trace && known.id == span)
        })
        .await;
        assert!(trace != TRACE && !traces.iter().any(|known| known == trace), "{trace}");
        traces.push(trace.to_owned());
    }
    assert_eq!(traces.len(), malformed.len());
    assert!(collector.spans().iter().all(|span| span.trace != TRACE));
}

#[tokio::test]
async fn the_entries_of_a_batch_carry_its_calls_trace() {
    let (redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    let mark = |recipient_id| MarkReadRequest { last_read_event_id: MESSAGE, recipient_id };
    let batch = BatchMarkReadRequest { requests: (1..=3).map(mark).collect() };
    let request = with(caller.authenticated(batch), &[("traceparent", &sampled())]);
    MarkReadServiceClient::new(server.channel()).batch_mark_read(request).await.unwrap();
    let spans = collector.trace(TRACE, 3).await;
    let (call, clients) = server_and_clients(&spans);
    assert_eq!(named(&clients, "EVALSHA mark_read").attribute("db.operation.batch.size"), "3");
    let users = named(&clients, "BATCH GETRANGE 0");
    assert_eq!(users.attribute("db.operation.batch.size"), "4");
    let entries = redis.entries().await;
    assert_eq!(entries.len(), 3);
    for fields in entries {
        assert_eq!(fields[1].1, format!("00-{TRACE}-{}-01", call.id));
    }
}

#[tokio::test]
async fn without_a_collector_the_callers_context_is_passed_on() {
    let redis = Redis::start().await;
    // Without trimming the script adds entries with another command.
    let server = Server::on_with(&redis, &["--stream-maxlen", "0"]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    let request = with(caller.request(RECIPIENT, 2), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
    let entries = redis.entries().await;
    assert_eq!(entries[0].len(), 1, "{entries:?}");
    assert_eq!(entries[1].len(), 2, "{entries:?}");
    assert_eq!(entries[1][1], ("traceparent".to_owned(), sampled()));
}

#[tokio::test]
async fn log_lines_of_a_call_carry_its_trace_and_its_span() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let server = server(&redis, &collector.url(), &[("RUST_LOG", "debug")]).await;
    let caller = server.caller(READER);
    let request = with(caller.request(RECIPIENT, MESSAGE), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
    let line = eventually("the call is logged", LIMIT, async || {
        server.log().into_iter().find(|line| line.contains("\"answered\""))
    })
    .await;
    let span: Value = serde_json::from_str::<Value>(&line).unwrap()["span"].clone();
    let spans = collector.trace(TRACE, 3).await;
    let (call, _) = server_and_clients(&spans);
    let expected = serde_json::json!({ "name": "call", "trace_id": TRACE, "span_id": call.id });
    assert_eq!(span, expected, "{line}");
    for line in server.log() {
        assert!(!line.contains("rpc.method") && !line.contains("db.system"), "{line}");
    }
}

/// The format of a terminal.
#[tokio::test]
async fn log_lines_in_text_carry_them_as_well() {
    let collector = Collector::start().await;
    let ports = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut process = command(&["serve", "--dev", "--log-format", "text"])
        .args(["--listen", &ports[0], "--ops-listen", &ports[1]])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("RUST_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it listens", LIMIT, async || TcpStream::connect(&ports[0]).await.ok()).await;
    let channel = Endpoint::from_shared(format!("http://{}", ports[0])).unwrap().connect_lazy();
    let caller = Caller::new(channel, Credentials::UserId(READER));
    let request = with(caller.request(RECIPIENT, MESSAGE), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
    kill(Pid::from_raw(process.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let mut log = String::new();
    process.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    // The remaining spans are sent at the exit.
    let spans = collector.trace(TRACE, 1).await;
    let prefix = format!("call{{trace_id={TRACE} span_id={}}}", spans[0].id);
    let answered = log.lines().find(|line| line.contains("answered")).expect(&log);
    assert!(answered.contains(&prefix), "{answered}");
}
