//! OpenTelemetry's standard variables: their effect, and invalid values.

use std::time::Duration;

use markread_harness::collector::Collector;
use markread_harness::{READER, RECIPIENT, Redis, eventually};

use super::{TRACE, sampled, server, with};
use crate::command_line::refused;

const LIMIT: Duration = Duration::from_secs(10);

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

#[tokio::test]
async fn an_invalid_variable_stops_the_start_with_one_line() {
    let table = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4317", "http://host:port"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "it must be grpc"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_always_on"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, none"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "none", "1 to 100000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "name=value"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "it must be none"),
    ];
    for (name, value, takes) in table {
        let line = refused(2, &["serve", "--dev"], &[ENDPOINT, (name, value)]).await;
        assert!(line.contains(name) && line.contains(takes), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    let tls = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317")];
    for (name, words) in [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/absent cannot be read"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/absent cannot be read"),
    ] {
        let line = refused(2, &["serve", "--dev"], &[tls[0], (name, "/absent")]).await;
        assert!(line.contains(name) && line.contains(words), "{line}");
    }
}

#[tokio::test]
async fn a_sampler_chooses_what_is_sent() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let part = ("OTEL_TRACES_SAMPLER_ARG", "0");
    for (sampler, sent_of_callers) in [
        ("always_off", false),
        ("parentbased_always_off", true),
        ("parentbased_traceidratio", true),
    ] {
        let chosen = [("OTEL_TRACES_SAMPLER", sampler), part];
        let server = server(&redis, &collector.url(), &chosen).await;
        let caller = server.caller(READER);
        let before = collector.spans().len();
        caller.mark(RECIPIENT, 1).await.unwrap();
        let request = with(caller.request(RECIPIENT, 2), &[("traceparent", &sampled())]);
        caller.send(request).await.unwrap();
        drop(caller);
        let mut server = server;
        server.signal(nix::sys::signal::Signal::SIGTERM);
        server.exit(LIMIT).await;
        if sent_of_callers {
            eventually("the caller's trace is sent", LIMIT, async || {
                (collector.spans().len() > before).then_some(())
            })
            .await;
        }
        // A server exits after all its spans are sent.
        let spans = collector.spans();
        assert!(spans.iter().all(|span| span.trace == TRACE), "{sampler}: {spans:#?}");
        assert_eq!(spans.len() > before, sent_of_callers, "{sampler}: {spans:#?}");
    }
    // An unsampled call without a caller's context passes nothing on.
    assert_eq!(redis.entries().await[0].len(), 1);
}

#[tokio::test]
async fn the_resource_is_as_the_environment_says() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let table: [(&[(&str, &str)], &str); 3] = [
        (&[("OTEL_SERVICE_NAME", "receipts")], "receipts"),
        (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=the%20other")], "the other"),
        (
            &[
                ("OTEL_SERVICE_NAME", "receipts"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,k8s.pod.name=pod-1"),
            ],
            "receipts",
        ),
    ];
    for (n, (variables, name)) in (1_u64..).zip(table) {
        let trace = format!("{n:032x}");
        let server = server(&redis, &collector.url(), variables).await;
        let caller = server.caller(READER);
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
        let request = with(caller.request(RECIPIENT, n), &[("traceparent", &traceparent)]);
        caller.send(request).await.unwrap();
        let span = eventually("a span arrives", LIMIT, async || {
            collector.spans().into_iter().find(|span| span.trace == trace)
        })
        .await;
        assert_eq!(span.resource["service.name"], name);
        if variables.len() == 2 {
            assert_eq!(span.resource["k8s.pod.name"], "pod-1");
        }
    }
}

#[tokio::test]
async fn traces_are_off_where_the_environment_says_so() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let mut server = server(&redis, &collector.url(), &[off]).await;
        let caller = server.caller(READER);
        let request = with(caller.request(RECIPIENT, 1), &[("traceparent", &sampled())]);
        caller.send(request).await.unwrap();
        server.signal(nix::sys::signal::Signal::SIGTERM);
        server.exit(LIMIT).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(collector.spans().len(), 0, "{:#?}", collector.spans());
    // The caller's context is passed on nevertheless.
    assert_eq!(redis.entries().await[0][1].1, sampled());
}
