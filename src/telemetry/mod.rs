//! Log lines, metrics, and spans for an OpenTelemetry Collector.
//!
//! A log line is one event, as text on a terminal and as JSON elsewhere, with the call's trace ID. No
//! line above debug carries a user or a message ID, and text from outside is written with `Debug`,
//! which escapes it.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, fmt, registry};

mod call;
mod export;
mod log_throttle;
pub mod metrics;
mod otlp_http;
mod panics;
mod traceparent;

pub use self::call::{CallIds, in_call};
pub use self::export::{CollectorTls, OtlpProtocol, Traces, TracesConfig};
pub use self::log_throttle::LogThrottle;
pub use self::traceparent::{Traceparent, tracestate};

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Target of the spans that go to the collector and nowhere else. If traces are off, no layer
/// listens to it, and such a span costs one check of a flag.
pub const SPANS: &str = "markread::spans";

/// True if spans go to a collector.
static TRACES: AtomicBool = AtomicBool::new(false);

/// Returns whether this thread works on a call whose span may go to the collector.
pub fn in_traced_call() -> bool {
    TRACES.load(Ordering::Relaxed) && !tracing::Span::current().is_none()
}

/// Directives in front of the chosen ones. The HTTP/2 library warns once a frame, so clients could
/// flood the log; its lines appear when `RUST_LOG` names it. Spans for the collector are not logged.
const ALWAYS: &str = "h2=error,markread::spans=off";

/// Starts logging to standard error, and sends spans to the collector if there is one. `RUST_LOG`
/// selects what is logged: `info` if it is unset or invalid. Panics are logged too.
pub fn init(format: Option<LogFormat>, traces: Option<&Traces>) {
    panics::log_panics();
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
    // A second call in one process, as in tests, leaves the first subscriber in place. `try_init` would also
    // take in what libraries write with the crate `log`: rustls a line for each client that renegotiates,
    // with the path of its source on the machine that built it.
    let _ = match traces {
        None => set_global_default(registry().with(lines).with(filter)),
        Some(traces) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(traces.tracer())
                .with_context_activation(false)
                .with_location(false)
                .with_target(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(SPANS, LevelFilter::INFO));
            set_global_default(registry().with(lines.with_filter(filter)).with(spans))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_2_library_logs_only_when_it_is_named() {
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
