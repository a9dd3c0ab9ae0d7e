//! What is told of calls: log lines, and spans for an OpenTelemetry Collector.
//!
//! A log line is one event, as text on a terminal and JSON elsewhere, with the call's trace ID. No
//! line above debug carries a user or a message ID, and what came from outside is written with
//! `Debug`, which escapes it.
//!
//! - `traceparent`: a call's place in a trace, as its caller tells it. - `call`: a call's span.
//! - `export`: how spans get to the collector.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, registry};

mod call;
mod export;
pub mod metrics;
mod traceparent;

pub use self::call::{CallSpan, CallTrace, in_call};
pub use self::export::{Traces, TracesConfig};
pub use self::traceparent::Traceparent;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The target of the spans that are for the collector, and for it alone: where traces are off
/// nobody listens to it, and making such a span costs a look at a flag.
pub const SPANS: &str = "markread::spans";

/// Whether there is a collector.
static TRACES: AtomicBool = AtomicBool::new(false);

/// Whether a call is worked on here whose span the collector may be sent.
pub fn in_traced_call() -> bool {
    TRACES.load(Ordering::Relaxed) && !tracing::Span::current().is_none()
}

/// The HTTP/2 library warns of what clients do, one line a frame: they could flood the log. It is
/// heard when `RUST_LOG` asks for it by name. Spans for the collector are no log lines.
const ALWAYS: &str = "h2=error,markread::spans=off";

/// Sends log lines to standard error, and spans to the collector where there is one. `RUST_LOG`
/// chooses what is logged; `info` where it is not set or makes no sense.
pub fn init(format: Option<LogFormat>, traces: Option<&Traces>) {
    let terminal = stderr().is_terminal();
    let filter = filter(std::env::var(EnvFilter::DEFAULT_ENV).ok().as_deref());
    let lines = fmt::layer().with_writer(stderr);
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    match format.unwrap_or(default) {
        LogFormat::Text => install(lines.with_ansi(terminal).with_target(false), filter, traces),
        LogFormat::Json => install(
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false),
            filter,
            traces,
        ),
    }
}

fn install(lines: impl Layer<Registry> + Send + Sync, filter: EnvFilter, traces: Option<&Traces>) {
    TRACES.store(traces.is_some(), Ordering::Relaxed);
    // A second initialisation in one process, as tests do, leaves the first in place.
    let _ = match traces {
        None => registry().with(lines).with(filter).try_init(),
        Some(traces) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(traces.tracer())
                .with_context_activation(false)
                .with_location(false)
                .with_target(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(SPANS, LevelFilter::INFO));
            registry().with(lines.with_filter(filter)).with(spans).try_init()
        }
    };
}

fn filter(chosen: Option<&str>) -> EnvFilter {
    let with_always = |directives: &str| EnvFilter::try_new(format!("{ALWAYS},{directives}"));
    chosen
        .filter(|directives| !directives.trim().is_empty())
        .and_then(|directives| with_always(directives).ok())
        .or_else(|| with_always("info").ok())
        .unwrap_or_default()
}

/// Keeps a line that a caller can cause from flooding the log: at most one in ten seconds.
#[derive(Debug, Default)]
pub struct Throttle {
    last_said: Mutex<Option<Instant>>,
    silenced: AtomicU64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether to say the line now, and how many were not said since the last.
    pub fn ask(&self) -> Option<u64> {
        let mut last_said =
            self.last_said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last_said.is_some_and(|last| last.elapsed() < Self::INTERVAL) {
            self.silenced.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last_said = Some(Instant::now());
        Some(self.silenced.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_2_library_is_heard_only_where_it_is_asked_for_by_name() {
        let table = [
            (None, "markread::spans=off,h2=error,info"),
            (Some(""), "markread::spans=off,h2=error,info"),
            (Some("h2=no level"), "markread::spans=off,h2=error,info"),
            (Some("debug"), "markread::spans=off,h2=error,debug"),
            (Some("h2=debug,info"), "markread::spans=off,h2=debug,info"),
        ];
        for (chosen, expected) in table {
            assert_eq!(filter(chosen).to_string(), expected, "{chosen:?}");
        }
    }
}
