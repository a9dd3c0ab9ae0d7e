//! Logs: one line an event, as text on a terminal and JSON elsewhere, with the call's trace ID.
//!
//! No line above debug carries a user or a message ID, and what came from outside is written with
//! `Debug`, which escapes it.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TraceId};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The HTTP/2 library warns of what clients do, one line a frame: they could flood the log. It is
/// heard when `RUST_LOG` asks for it by name.
const ALWAYS: &str = "h2=error";

/// Sends log lines to standard error. `RUST_LOG` chooses what is said; `info` where it is not set
/// or makes no sense.
pub fn init(format: Option<LogFormat>) {
    let terminal = stderr().is_terminal();
    let filter = filter(std::env::var(EnvFilter::DEFAULT_ENV).ok().as_deref());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    // A second initialisation in one process, as tests do, leaves the first in place.
    let _ = match format.unwrap_or(default) {
        LogFormat::Text => lines.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
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

/// The trace that a call belongs to: the caller's, by its `traceparent` (W3C Trace Context), or a
/// new one.
pub fn trace_id(headers: &HeaderMap) -> TraceId {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    let caller = context.span().span_context().trace_id();
    if caller == TraceId::INVALID { RandomIdGenerator::default().new_trace_id() } else { caller }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
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
            (None, "h2=error,info"),
            (Some(""), "h2=error,info"),
            (Some("h2=no level"), "h2=error,info"),
            (Some("debug"), "h2=error,debug"),
            (Some("h2=debug,info"), "h2=debug,info"),
        ];
        for (chosen, expected) in table {
            assert_eq!(filter(chosen).to_string(), expected, "{chosen:?}");
        }
    }
}
