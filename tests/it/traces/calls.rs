//! The contents of spans, by OpenTelemetry's conventions, and what they never contain.

use std::collections::BTreeMap;
use std::time::Duration;

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::collector::{Collector, Span};
use markread_harness::operator::Operator;
use markread_harness::server::http1;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, eventually};

use super::{TRACE, named, sampled, server, server_and_clients, traced, with};

const LIMIT: Duration = Duration::from_secs(10);

const PATH: &str = "/1.1/direct_messages/mark_read.json";

const SERVICE: &str = "markread.v1.MarkReadService";

fn attributes(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_marks_span_follows_the_conventions_exactly() {
    let (redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    let request = with(caller.request(RECIPIENT, MESSAGE), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
    let spans = collector.trace(TRACE, 3).await;
    let (call, clients) = server_and_clients(&spans);
    let expected = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", &format!("{SERVICE}/MarkRead")),
        ("rpc.response.status_code", "OK"),
    ];
    assert_eq!(call.attributes, attributes(&expected));
    assert_eq!((&call.status[..], call.events), ("Unset", false));
    let script = named(&clients, "EVALSHA mark_read");
    let port = redis.port.to_string();
    let expected = [
        ("db.system.name", "redis"),
        ("db.namespace", "0"),
        ("db.operation.name", "EVALSHA"),
        ("db.stored_procedure.name", "mark_read"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
    ];
    assert_eq!(script.attributes, attributes(&expected));
    assert_eq!((&script.status[..], script.events), ("Unset", false));
    named(&clients, "BATCH GETRANGE 0");
    let named = |name: &str| call.resource.get(name).map(String::as_str);
    assert_eq!(named("service.name"), Some("markread"));
    assert_eq!(named("service.version"), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn every_method_has_a_span_with_its_redis_spans_below() {
    let (_redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    caller.mark_batch(&[(7, 8)]).await.unwrap();
    caller.state(RECIPIENT).await.unwrap();
    caller.states(&[7, RECIPIENT]).await.unwrap();
    caller.page(10, "").await.unwrap();
    let watch = WatchMarkReadEventsRequest { after: "0-0".to_owned() };
    let mut client = MarkReadServiceClient::new(server.channel());
    let request = caller.authenticated(watch);
    let mut updates = client.watch_mark_read_events(request).await.unwrap().into_inner();
    updates.message().await.unwrap();
    // The span lasts as long as the watch.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let of_watch = |span: &Span| span.name.ends_with("/WatchMarkReadEvents");
    assert!(!collector.spans().iter().any(of_watch));
    drop(updates);
    let watched = eventually("the span of the watch arrives", LIMIT, async || {
        collector.spans().into_iter().find(of_watch)
    })
    .await;
    assert_eq!(watched.attribute("rpc.response.status_code"), "CANCELLED");

    let expected = [
        ("MarkRead", vec!["EVALSHA mark_read", "BATCH GETRANGE 0"]),
        ("BatchMarkRead", vec!["EVALSHA mark_read", "GETRANGE 0"]),
        ("GetReadState", vec!["EVALSHA read_states"]),
        ("BatchGetReadStates", vec!["EVALSHA read_states"]),
        ("ListReadCursors", vec!["EVALSHA list_cursors"]),
        ("WatchMarkReadEvents", vec!["EVALSHA read_states", "EVAL 0"]),
    ];
    let spans = collector.spans();
    for (method, names) in expected {
        let name = format!("{SERVICE}/{method}");
        let call = spans.iter().find(|span| span.name == name).expect(&name);
        let of_call: Vec<_> = spans.iter().filter(|span| span.trace == call.trace).collect();
        for name in names {
            assert_eq!(named(&of_call, name).parent, call.id, "{method}: {of_call:#?}");
        }
    }
}

#[tokio::test]
async fn reading_the_backlog_is_part_of_the_watchs_trace() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    // More entries than the server reads at its start.
    let fill = "for n = 1, 10001 do redis.call('XADD', KEYS[1], '*', 'n', n) end";
    let mut eval = redis::cmd("EVAL");
    eval.arg(fill).arg(1).arg("direct_message_mark_read_events");
    eval.query_async::<()>(&mut redis.connection().await).await.unwrap();
    let server = server(&redis, &collector.url(), &[]).await;
    let watch = WatchMarkReadEventsRequest { after: "0-0".to_owned() };
    let request = with(server.caller(READER).authenticated(watch), &[("traceparent", &sampled())]);
    let mut client = MarkReadServiceClient::new(server.channel());
    let updates = client.watch_mark_read_events(request).await.unwrap();
    let read = eventually("the span of the read arrives", LIMIT, async || {
        collector.spans().into_iter().find(|span| span.name == "XRANGE 0")
    })
    .await;
    drop(updates);
    let call = eventually("the span of the watch arrives", LIMIT, async || {
        collector.spans().into_iter().find(|span| span.kind == "Server")
    })
    .await;
    assert_eq!((&read.trace[..], read.parent), (TRACE, call.id));
}

#[tokio::test]
async fn no_span_is_sent_without_a_call() {
    let (_redis, collector, server) = traced().await;
    let operator = Operator::new(&server);
    for _ in 0..5 {
        operator.health("").await.unwrap();
        server.get("/metrics").await;
    }
    // Meanwhile the server waits for entries and probes Redis.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let caller = server.caller(READER);
    let request = with(caller.request(RECIPIENT, MESSAGE), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
    collector.trace(TRACE, 3).await;
    assert_eq!(collector.spans().len(), 3, "{:#?}", collector.spans());
}

#[tokio::test]
async fn only_a_fault_of_the_server_is_a_span_error() {
    let (mut redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    let trace = |n: u8| format!("{n:032x}");
    let traceparent = |n: u8| format!("00-{}-00f067aa0ba902b7-01", trace(n));
    let send = async |n: u8, caller: &Caller, recipient: u64| {
        let request = with(caller.request(recipient, MESSAGE), &[("traceparent", &traceparent(n))]);
        caller.send(request).await.unwrap_err();
    };
    send(1, &caller, 0).await;
    send(2, &server.stranger(Credentials::Nothing), RECIPIENT).await;
    redis.run::<()>(&format!("SET markread:quota:{READER} 1000 EX 60")).await;
    send(3, &caller, RECIPIENT).await;
    redis.run::<()>("SET markread:cursors:5 x").await;
    send(4, &server.caller(5), RECIPIENT).await;
    redis.freeze();
    send(5, &server.caller(6), RECIPIENT).await;
    redis.thaw();
    redis.kill().await;
    eventually("the connection is gone", LIMIT, async || {
        (server.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    send(6, &server.caller(6), RECIPIENT).await;

    let table = [
        (1, "INVALID_ARGUMENT", "Unset", ""),
        (2, "UNAUTHENTICATED", "Unset", ""),
        (3, "RESOURCE_EXHAUSTED", "Unset", ""),
        (4, "INTERNAL", "Error", "INTERNAL"),
        (5, "UNAVAILABLE", "Error", "UNAVAILABLE"),
        (6, "UNAVAILABLE", "Error", "UNAVAILABLE"),
    ];
    let spans = |n: u8| -> Vec<_> {
        collector.spans().into_iter().filter(|span| span.trace == trace(n)).collect()
    };
    for (n, code, status, error_type) in table {
        let call = eventually("the span of the call arrives", LIMIT, async || {
            spans(n).into_iter().find(|span| span.kind == "Server")
        })
        .await;
        assert_eq!(call.attribute("rpc.response.status_code"), code, "{call:#?}");
        assert_eq!(call.status, status, "{call:#?}");
        assert_eq!(call.attribute("error.type"), error_type, "{call:#?}");
    }
    for (n, error_type) in [(4, "corrupt"), (5, "cancelled")] {
        let spans = spans(n);
        let client = spans.iter().find(|span| span.kind == "Client" && span.status == "Error");
        assert_eq!(client.map(|span| span.attribute("error.type")), Some(error_type), "{spans:#?}");
    }
}

#[tokio::test]
async fn an_http_span_is_named_by_its_route() {
    let (_redis, collector, server) = traced().await;
    let requests = [
        ("POST", format!("{PATH}?recipient_id={RECIPIENT}"), "401"),
        ("GET", PATH.to_owned(), "405"),
        ("POST", format!("/users/{READER}"), "404"),
        ("EVIL", format!("/users/{READER}"), "404"),
    ];
    for (method, target, _) in &requests {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n"
        );
        http1(&server.address, &request).await.unwrap();
    }
    let spans = eventually("the spans arrive", LIMIT, async || {
        Some(collector.spans()).filter(|spans| spans.len() >= requests.len())
    })
    .await;
    let expected = [
        ("POST /1.1/direct_messages/mark_read.json", "POST", PATH, "401"),
        ("GET", "GET", "", "405"),
        ("POST", "POST", "", "404"),
        ("HTTP", "_OTHER", "", "404"),
    ];
    for (name, method, route, status) in expected {
        let span = spans.iter().find(|span| span.name == name).expect(name);
        let values = ["http.request.method", "http.route", "url.path", "http.response.status_code"]
            .map(|name| span.attribute(name));
        assert_eq!(values, [method, route, route, status]);
        assert_eq!((span.attribute("url.scheme"), &span.status[..]), ("http", "Unset"));
    }
}

#[tokio::test]
async fn no_span_names_a_user_or_a_message() {
    let (redis, collector, server) = traced().await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    caller.state(RECIPIENT).await.unwrap();
    redis.run::<()>(&format!("SET markread:cursors:{READER} x")).await;
    caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    let path = format!("/{READER}/{RECIPIENT}?last_read_event_id={MESSAGE}");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {READER}\r\nconnection: close\r\n\r\n");
    http1(&server.address, &request).await.unwrap();
    eventually("the last span arrives", LIMIT, async || {
        collector.spans().into_iter().find(|span| span.name == "GET")
    })
    .await;
    let printed = collector.printed();
    assert!(printed.contains("EVALSHA read_states"), "{printed}");
    for id in [READER, RECIPIENT, MESSAGE] {
        assert!(!printed.contains(&id.to_string()), "{id} in {printed}");
    }
}
