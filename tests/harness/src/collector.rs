//! A real OpenTelemetry Collector, which prints the spans that it receives
//! (`tests/tools/otelcol.yaml` says how it is built).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::tools::tool;
use crate::{eventually, free_port};

const LIMIT: Duration = Duration::from_secs(20);

/// A collector process, or the port that one will listen on.
pub struct Collector {
    port: u16,
    http_port: u16,
    dir: TempDir,
    process: Option<Child>,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A span, as the collector prints it.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// The trace's ID.
    pub trace: String,
    /// The parent span's ID, or an empty string.
    pub parent: String,
    /// The span's ID.
    pub id: String,
    /// The span's name.
    pub name: String,
    /// `Server`, `Client` or `Internal`.
    pub kind: String,
    /// `Unset`, `Ok` or `Error`.
    pub status: String,
    /// The `tracestate`.
    pub state: String,
    /// Whether the span has events.
    pub events: bool,
    /// The span's attributes.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the process that sent it.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// The value of an attribute, or an empty string.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// Starts a collector.
    pub async fn start() -> Self {
        let mut collector = Self::down();
        collector.launch("").await;
        collector
    }

    /// Starts a collector that takes spans over TLS, from clients with a certificate of this CA.
    pub async fn behind_tls(chain: &str, key: &str, client_ca: &str) -> Self {
        let mut collector = Self::down();
        let tls =
            format!("{{ cert_file: {chain:?}, key_file: {key:?}, client_ca_file: {client_ca:?} }}");
        collector.launch(&format!("tls: {tls}")).await;
        collector
    }

    /// A collector that has not been started.
    pub fn down() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            port: free_port(),
            http_port: free_port(),
            dir,
            process: None,
            lines: Arc::default(),
        }
    }

    /// Starts it; `tls` is added to the configuration of its receiver.
    pub async fn launch(&mut self, tls: &str) {
        let config = self.dir.path().join("config.yaml");
        std::fs::write(&config, self.config(tls)).unwrap();
        let mut process = program(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the collector that tests/run builds, named by MARKREAD_TEST_OTELCOL");
        let mut printed = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&self.lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = printed.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });
        self.process = Some(process);
        eventually("the collector listens", LIMIT, async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            TcpStream::connect(("127.0.0.1", self.http_port)).await.ok()
        })
        .await;
    }

    fn config(&self, tls: &str) -> String {
        format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc:\n        \
             endpoint: 127.0.0.1:{}\n        {tls}\n      http:\n        \
             endpoint: 127.0.0.1:{}\n        {tls}\n\
             exporters:\n  debug:\n    verbosity: detailed\n    use_internal_logger: false\n    \
             output_paths: [stderr]\n    sampling_initial: 1000000\n\
             service:\n  telemetry:\n    metrics:\n      level: none\n    \
             logs:\n      level: error\n  \
             pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [debug]\n",
            self.port, self.http_port
        )
    }

    /// Where it takes spans, as `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same as a URL without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it takes spans over plain HTTP, as a URL without TLS.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        parse(&self.lines.lock().unwrap())
    }

    /// Everything printed so far.
    pub fn printed(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for this many spans of a trace, and panics if there are more.
    pub async fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
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

/// Parses what the debug exporter prints: `Span #0`, then lines of `name : value`. A line
/// `-> name: Type(value)` is an attribute: of the resource before the first span, then of the span.
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
    // The last one may be printed in part only.
    spans.retain(|span| !span.status.is_empty());
    spans
}

fn attribute(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(": ")?;
    let value = value.split_once('(')?.1.strip_suffix(')')?;
    Some((name.to_owned(), value.to_owned()))
}
