//! Collectors that are down, hang or come back: only spans may be lost.

use std::time::{Duration, Instant};

use markread_harness::certificates::Authority;
use markread_harness::collector::Collector;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use nix::sys::signal::Signal;
use tokio::net::TcpListener;

use super::{TRACE, sampled, server, with};

/// The longest that an exit may take; the flush is abandoned after 2 s.
const EXIT: Duration = Duration::from_secs(6);

async fn mark(server: &Server, message: u64) {
    let caller = server.caller(READER);
    let request = with(caller.request(RECIPIENT, message), &[("traceparent", &sampled())]);
    caller.send(request).await.unwrap();
}

async fn leaves(mut server: Server) -> Vec<String> {
    server.signal(Signal::SIGTERM);
    let status = server.exit(EXIT).await;
    // Its last lines are read by another task.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status.code(), Some(0), "{status}\n{}", server.log().join("\n"));
    server.log()
}

fn count_of(log: &[String], words: &str) -> usize {
    log.iter().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn an_absent_collector_delays_no_call_and_is_logged_once() {
    let (redis, collector) = (Redis::start().await, Collector::down());
    // Each failed export takes about a second, so the queue is full long before the last call.
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "10")];
    let server = server(&redis, &collector.url(), &small).await;
    for message in 1..=300 {
        mark(&server, message).await;
    }
    assert_eq!(redis.events().await.len(), 300);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let log = leaves(server).await;
    let losses = count_of(&log, "\"spans lost\"");
    assert!((1..=2).contains(&losses), "{}", log.join("\n"));
}

#[tokio::test]
async fn a_silent_collector_delays_neither_calls_nor_the_exit() {
    let redis = Redis::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(accepted) = silent.accept().await {
            held.push(accepted);
        }
    });
    let server = server(&redis, &url, &[]).await;
    for message in 1..=50 {
        mark(&server, message).await;
    }
    let began = Instant::now();
    let log = leaves(server).await;
    assert!(began.elapsed() < EXIT, "{:?}", began.elapsed());
    assert_eq!(count_of(&log, "the last spans were lost"), 1, "{}", log.join("\n"));
}

#[tokio::test]
async fn a_collector_that_starts_later_receives_later_spans() {
    let (redis, mut collector) = (Redis::start().await, Collector::down());
    let server = server(&redis, &collector.url(), &[]).await;
    server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    collector.launch("").await;
    mark(&server, 2).await;
    collector.trace(TRACE, 2).await;
    leaves(server).await;
}

#[tokio::test]
async fn remaining_spans_are_sent_at_the_exit() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let server = server(&redis, &collector.url(), &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]).await;
    mark(&server, MESSAGE).await;
    let log = leaves(server).await;
    collector.trace(TRACE, 3).await;
    assert_eq!(count_of(&log, "lost"), 0, "{}", log.join("\n"));
}

#[tokio::test]
async fn spans_are_sent_by_each_protocol_and_compression() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let gzip = ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let base = collector.http_url();
    let (with_slash, own) = (format!("{base}/"), format!("{base}/v1/traces"));
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own.as_str());
    let mut spans = 0;
    for (message, (url, variables)) in (MESSAGE..).zip([
        (&collector.url(), &[gzip][..]),
        (&base, &[http]),
        (&base, &[http, gzip]),
        (&with_slash, &[http]),
        // It is used as it is, whatever the other one says.
        (&collector.url(), &[http, own]),
    ]) {
        let server = server(&redis, url, variables).await;
        mark(&server, message).await;
        leaves(server).await;
        spans += 3;
        collector.trace(TRACE, spans).await;
    }
}

#[tokio::test]
async fn a_collector_over_http_may_be_absent_or_silent() {
    let redis = Redis::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent = Collector::down().http_url();
    for url in [absent, format!("http://{}", silent.local_addr().unwrap())] {
        let http = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
        let server = server(&redis, &url, &http).await;
        for message in 1..=20 {
            mark(&server, message).await;
        }
        let log = leaves(server).await;
        assert!(count_of(&log, "lost") >= 1, "{}", log.join("\n"));
        assert_eq!(count_of(&log, "panicked"), 0, "{}", log.join("\n"));
    }
}

#[tokio::test]
async fn a_collector_over_https_sees_a_client_certificate() {
    let authority = Authority::new().await;
    let collectors = authority.issue("collector", "IP:127.0.0.1").await;
    let clients = authority.issue("client", "DNS:markread").await;
    let ca = authority.file();
    let collector = Collector::behind_tls(&collectors.chain, &collectors.key, &ca).await;
    let redis = Redis::start().await;
    let url = collector.http_url().replace("http://", "https://");
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str()),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &clients.chain),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &clients.key),
    ];
    let known = server(&redis, &url, &variables).await;
    mark(&known, MESSAGE).await;
    collector.trace(TRACE, 3).await;
    for unknown in [&variables[..1], &variables[..2]] {
        let stranger = server(&redis, &url, unknown).await;
        mark(&stranger, MESSAGE + 1).await;
        let log = leaves(stranger).await;
        assert_eq!(collector.spans().len(), 3, "{}", log.join("\n"));
    }
}

#[tokio::test]
async fn a_collector_behind_tls_sees_a_client_certificate() {
    let authority = Authority::new().await;
    let collectors = authority.issue("collector", "IP:127.0.0.1").await;
    let clients = authority.issue("client", "DNS:markread").await;
    let ca = authority.file();
    let collector = Collector::behind_tls(&collectors.chain, &collectors.key, &ca).await;
    let redis = Redis::start().await;
    let url = format!("https://{}", collector.address());
    let files = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str()),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &clients.chain),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &clients.key),
    ];
    let known = server(&redis, &url, &files).await;
    mark(&known, MESSAGE).await;
    collector.trace(TRACE, 3).await;

    // Without the CA the collector cannot be verified.
    let stranger = server(&redis, &url, &files[..0]).await;
    mark(&stranger, MESSAGE + 1).await;
    let log = leaves(stranger).await;
    assert_eq!(collector.spans().len(), 3, "{}", log.join("\n"));
}

#[tokio::test]
async fn headers_of_the_exporter_are_never_logged() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let headers = [
        ("RUST_LOG", "trace"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2,authorization=Bearer%20hunter3"),
    ];
    let http = [&headers[..], &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]].concat();
    let servers = [
        server(&redis, &collector.url(), &headers).await,
        server(&redis, &collector.http_url(), &http).await,
    ];
    for (server, spans) in servers.iter().zip([3, 6]) {
        mark(server, MESSAGE + spans).await;
        collector.trace(TRACE, spans.try_into().unwrap()).await;
    }
    drop(collector);
    for server in servers {
        mark(&server, MESSAGE + 10).await;
        for line in leaves(server).await {
            assert!(!line.contains("hunter"), "{line}");
        }
    }
}
