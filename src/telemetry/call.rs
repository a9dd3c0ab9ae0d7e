//! The call that a thread works on, so that log lines about it carry its trace ID.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use tracing::Span;

/// The IDs that log lines about a call carry.
#[derive(Clone, Copy, Debug)]
pub struct CallIds {
    /// The call's trace.
    pub trace_id: TraceId,
    /// The call's own span, if it is recorded.
    pub span_id: Option<SpanId>,
}

thread_local! {
    static CURRENT: Cell<Option<CallIds>> = const { Cell::new(None) };
}

impl CallIds {
    /// Returns the span that log lines of the call are written in.
    pub fn log_span(self) -> Span {
        tracing::error_span!("call", trace_id = %self.trace_id, span_id = self.span_id.map(tracing::field::display))
    }

    /// Runs a part of the call's work as the current call of this thread.
    pub fn scope<T>(ids: Option<Self>, work: impl FnOnce() -> T) -> T {
        let outer = CURRENT.replace(ids);
        let result = work();
        CURRENT.set(outer);
        result
    }
}

/// Runs `log` inside the current call's span, so that its lines carry the trace ID. For lines above
/// debug level: at debug level the span is open throughout the call.
pub fn in_call(log: impl FnOnce()) {
    match CURRENT.get() {
        Some(ids) => ids.log_span().in_scope(log),
        None => log(),
    }
}
