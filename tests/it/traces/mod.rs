//! Traces of calls: what a real OpenTelemetry Collector receives, and what stream entries and log
//! lines carry.

use markread_harness::collector::{Collector, Span};
use markread_harness::{Redis, Server};
use tonic::Request;

mod calls;
mod collectors;
mod context;
mod relay;
pub(crate) mod settings;

/// The caller's trace and span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn sampled() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A request with these headers added.
fn with<T>(mut request: Request<T>, headers: &[(&'static str, &str)]) -> Request<T> {
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// Starts a server that exports spans at once, with more variables.
async fn server(redis: &Redis, collector: &str, more: &[(&str, &str)]) -> Server {
    let own = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let server = Server::on_in(redis, &[], &[&own, more].concat()).await;
    server.wait_until_ready().await;
    server
}

/// A Redis, a collector, and a server that uses both.
async fn traced() -> (Redis, Collector, Server) {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let server = server(&redis, &collector.url(), &[]).await;
    (redis, collector, server)
}

/// The server span in a trace, and the client spans.
fn server_and_clients(spans: &[Span]) -> (&Span, Vec<&Span>) {
    let (servers, clients): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind == "Server");
    let [server] = servers[..] else { panic!("not one server span: {spans:#?}") };
    for client in &clients {
        assert_eq!(client.kind, "Client", "{client:#?}");
        assert_eq!(client.parent, server.id, "{client:#?}");
    }
    (server, clients)
}

/// The span with this name.
fn named<'a>(spans: &[&'a Span], name: &str) -> &'a Span {
    let named = spans.iter().find(|span| span.name == name);
    named.unwrap_or_else(|| panic!("no {name} among {spans:#?}"))
}
