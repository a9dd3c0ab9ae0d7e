//! OpenTelemetry's standard variables: their effect, and invalid values.

use std::time::Duration;

use markread_harness::collector::Collector;
use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};
use serde_json::Value;

use super::{TRACE, sampled, server, with};

const LIMIT: Duration = Duration::from_secs(10);

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

/// Starts a server with these variables, which serves calls without traces. Returns the problem that its
/// one warning names.
pub(crate) async fn warned(variables: &[(&str, &str)]) -> String {
    let server = Server::spawn_in(&["--dev"], true, variables).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    let log = server.log();
    let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<_> = lines.filter(|line| line["message"] == "calls are not traced").collect();
    let [warning] = &warnings[..] else { panic!("not one warning: {log:#?}") };
    assert_eq!(warning["level"], "WARN");
    assert!(log.iter().all(|line| !line.contains("hunter2")), "{log:#?}");
    warning["problem"].as_str().unwrap().to_owned()
}

/// A cluster may set these variables for all of its services.
#[tokio::test]
async fn an_invalid_variable_is_one_warning_and_no_traces() {
    let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317");
    let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
    for (variables, problem) in [
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")][..],
            "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL: it must be http://host:port or https://host:port",
        ),
        (
            &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
            "OTEL_EXPORTER_OTLP_PROTOCOL \"http/json\" is not supported: it must be one of grpc, \
             http/protobuf",
        ),
        (
            &[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd")],
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION \"zstd\" is not supported: it must be one of none, \
             gzip",
        ),
        (
            &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "jaeger_remote\n")],
            "OTEL_TRACES_SAMPLER \"jaeger_remote\\n\" is not supported: it must be one of always_on, \
             always_off, traceidratio, parentbased_always_on, parentbased_always_off, \
             parentbased_traceidratio",
        ),
        (
            &[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", "2")],
            "OTEL_TRACES_SAMPLER_ARG \"2\" is not a ratio: it must be a number from 0 to 1",
        ),
        (
            &[("OTEL_TRACES_EXPORTER", "zipkin")],
            "OTEL_TRACES_EXPORTER \"zipkin\" is not supported: it must be one of otlp, none",
        ),
        (
            &[ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "none")],
            "OTEL_BSP_MAX_QUEUE_SIZE \"none\" is invalid: it must be an integer from 1 to 100000",
        ),
        (
            &[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")],
            "OTEL_EXPORTER_OTLP_HEADERS is not a list of headers: it must be name=value,name=value",
        ),
        (
            &[ENDPOINT, ("OTEL_RESOURCE_ATTRIBUTES", "hunter2")],
            "OTEL_RESOURCE_ATTRIBUTES is not a list: it must be name=value,name=value, percent-encoded",
        ),
        (
            &[https, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/absent")],
            "OTEL_EXPORTER_OTLP_CERTIFICATE /absent cannot be read: No such file or directory (os \
             error 2)",
        ),
        (
            &[https, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/absent")],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY /absent cannot be read: No such file or directory (os \
             error 2)",
        ),
    ] {
        assert_eq!(warned(variables).await, problem);
    }
}

/// What the OpenTelemetry specification names is supported, or means its default.
#[tokio::test]
async fn a_standard_variable_is_no_warning() {
    for variables in [
        &[][..],
        &[("OTEL_TRACES_SAMPLER", "traceidratio")],
        &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")],
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
        &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")],
        &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ],
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", ""), ("OTEL_EXPORTER_OTLP_COMPRESSION", "")],
        &[("OTEL_TRACES_SAMPLER", ""), ("OTEL_TRACES_SAMPLER_ARG", "")],
        &[("OTEL_BSP_MAX_QUEUE_SIZE", ""), ("OTEL_EXPORTER_OTLP_HEADERS", "")],
        &[("OTEL_METRICS_EXPORTER", "prometheus"), ("OTEL_PROPAGATORS", "b3")],
    ] {
        let variables = [&[ENDPOINT], variables].concat();
        let server = Server::spawn_in(&["--dev"], true, &variables).await;
        server.wait_until_ready().await;
        let log = server.log().join("\n");
        assert!(!log.contains("not traced"), "{variables:?}: {log}");
    }
}

#[tokio::test]
async fn a_sampled_ratio_is_all_unless_it_is_set() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    for (n, variables) in (1..).zip([
        &[("OTEL_TRACES_SAMPLER", "traceidratio")][..],
        &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "")],
    ]) {
        let server = server(&redis, &collector.url(), variables).await;
        let before = collector.spans().len();
        server.caller(READER).mark(RECIPIENT, n).await.unwrap();
        eventually("the call's spans", LIMIT, async || {
            (collector.spans().len() > before).then_some(())
        })
        .await;
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
