//! Traces: what a real OpenTelemetry Collector is sent of calls, and what consumers of the stream
//! and readers of the log are told of them.

use tonic::Request;

use super::harness::collector::{Collector, Span};
use super::harness::{Redis, Server};

mod calls;
mod collectors;
mod context;
mod settings;

/// The caller's trace, and its span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn sampled() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A request with these headers beside.
fn with<T>(mut request: Request<T>, headers: &[(&'static str, &str)]) -> Request<T> {
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// A ready server that sends what is traced at once, with more variables.
async fn server(redis: &Redis, collector: &str, more: &[(&str, &str)]) -> Server {
    let own = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let server = Server::on_in(redis, &[], &[&own, more].concat()).await;
    server.wait_until_ready().await;
    server
}

/// A Redis, a collector, and a server that knows both.
async fn traced() -> (Redis, Collector, Server) {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let server = server(&redis, &collector.url(), &[]).await;
    (redis, collector, server)
}

/// The span of a trace that a server made of a call, and those of what it asked for it.
fn server_and_clients(spans: &[Span]) -> (&Span, Vec<&Span>) {
    let (servers, clients): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind == "Server");
    let [server] = servers[..] else { panic!("one span of a server: {spans:#?}") };
    for client in &clients {
        assert_eq!(client.kind, "Client", "{client:#?}");
        assert_eq!(client.parent, server.id, "{client:#?}");
    }
    (server, clients)
}

/// Of a trace, the span with this name.
fn named<'a>(spans: &[&'a Span], name: &str) -> &'a Span {
    let named = spans.iter().find(|span| span.name == name);
    named.unwrap_or_else(|| panic!("{name} is among {spans:#?}"))
}
