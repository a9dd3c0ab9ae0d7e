//! A real OpenTelemetry Collector, which prints the spans that it is sent (`tests/tools/otelcol.yaml`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::tools::tool;
use super::{eventually, free_port};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Collector {
    port: u16,
    dir: TempDir,
    process: Option<Child>,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A span, as the collector prints it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) parent: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) state: String,
    pub(crate) events: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Of whom sent it.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Span {
    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// One that takes spans.
    pub(crate) async fn start() -> Self {
        let mut collector = Self::down();
        collector.launch("").await;
        collector
    }

    /// One that takes spans over TLS from clients that show a certificate of this CA.
    pub(crate) async fn behind_tls(chain: &str, key: &str, client_ca: &str) -> Self {
        let mut collector = Self::down();
        let tls =
            format!("{{ cert_file: {chain:?}, key_file: {key:?}, client_ca_file: {client_ca:?} }}");
        collector.launch(&format!("tls: {tls}")).await;
        collector
    }

    /// One that is not there yet.
    pub(crate) fn down() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { port: free_port(), dir, process: None, lines: Arc::default() }
    }

    /// Starts it, with more about who is let in.
    pub(crate) async fn launch(&mut self, tls: &str) {
        let config = self.dir.path().join("config.yaml");
        std::fs::write(&config, self.config(tls)).unwrap();
        let mut process = program(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("MARKREAD_TEST_OTELCOL names the collector that tests/run builds");
        let mut printed = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&self.lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = printed.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });
        self.process = Some(process);
        eventually("the collector listens", LIMIT, async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }

    fn config(&self, tls: &str) -> String {
        format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc:\n        \
             endpoint: 127.0.0.1:{}\n        {tls}\n\
             exporters:\n  debug:\n    verbosity: detailed\n    use_internal_logger: false\n    \
             output_paths: [stderr]\n    sampling_initial: 1000000\n\
             service:\n  telemetry:\n    metrics:\n      level: none\n    \
             logs:\n      level: error\n  \
             pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [debug]\n",
            self.port
        )
    }

    /// Where spans are taken: `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The spans that it was sent so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        parse(&self.lines.lock().unwrap())
    }

    /// All that it printed.
    pub(crate) fn printed(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits until it was sent these many of a trace.
    pub(crate) async fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
        let of_trace =
            || -> Vec<_> { self.spans().into_iter().filter(|span| span.trace == trace).collect() };
        let found = eventually("the spans arrive", LIMIT, async || {
            Some(of_trace()).filter(|spans| spans.len() >= count)
        })
        .await;
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }
}

fn program(config: &Path) -> Command {
    let mut program = Command::new(tool("MARKREAD_TEST_OTELCOL", "otelcol"));
    program.args(["--config", config.to_str().unwrap()]);
    program.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    program
}

/// What the debug exporter prints: `Span #0` and lines of `name : value`; `-> name: Type(value)` is an
/// attribute, of the resource until the first span, or of the span.
fn parse(lines: &[String]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut of_resource = false;
    for line in lines.iter().map(|line| line.trim()) {
        if line.starts_with("ResourceSpans #") {
            (resource, of_resource) = (BTreeMap::new(), true);
        } else if line.starts_with("Span #") {
            of_resource = false;
            spans.push(Span { resource: resource.clone(), ..Span::default() });
        } else if let Some((name, value)) = line.strip_prefix("-> ").and_then(attribute) {
            if of_resource {
                resource.insert(name, value);
            } else if let Some(span) = spans.last_mut() {
                span.attributes.insert(name, value);
            }
        } else if let Some(span) = spans.last_mut().filter(|_| !of_resource) {
            if line == "Events:" {
                span.events = true;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim().to_owned();
            match name.trim() {
                "Trace ID" => span.trace = value,
                "Parent ID" => span.parent = value,
                "ID" => span.id = value,
                "Name" => span.name = value,
                "Kind" => span.kind = value,
                "Status code" => span.status = value,
                "TraceState" => span.state = value,
                _ => {}
            }
        }
    }
    // The last one may not be printed whole yet.
    spans.retain(|span| !span.status.is_empty());
    spans
}

fn attribute(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(": ")?;
    let value = value.split_once('(')?.1.strip_suffix(')')?;
    Some((name.to_owned(), value.to_owned()))
}
