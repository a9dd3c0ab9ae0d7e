//! Spans of calls to Redis, by OpenTelemetry's conventions for database clients (1.44). They contain no
//! keys and no arguments.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};

use super::connection::mode::RedisMode;
use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry::{SPANS, in_traced_call};

/// Attributes of the Redis that is called.
#[derive(Debug)]
pub(crate) struct Spans {
    address: String,
    port: Option<i64>,
    /// Number of its database.
    namespace: String,
}

impl Spans {
    pub(crate) fn new(mode: &RedisMode) -> Self {
        let (address, port) = mode.name();
        Self { address, port: port.map(i64::from), namespace: mode.database().to_string() }
    }

    /// Starts the span of a script call for `count` items.
    pub(crate) fn script(&self, name: &'static str, count: usize) -> RedisSpan {
        self.start("EVALSHA", Some(name), count)
    }

    /// Starts the span of a command, or of `count` in one pipeline.
    pub(crate) fn command(&self, name: &'static str, count: usize) -> RedisSpan {
        self.start(name, None, count)
    }

    fn start(&self, operation: &str, script: Option<&'static str>, count: usize) -> RedisSpan {
        // The server's own calls belong to no trace.
        if !in_traced_call() {
            return RedisSpan { span: Span::none(), ended: true };
        }
        let batch_size = (count > 1).then(|| i64::try_from(count).unwrap_or(i64::MAX));
        let span = tracing::info_span!(
            target: SPANS,
            "redis",
            otel.name = format!("{operation} {}", script.unwrap_or(&self.namespace)),
            otel.kind = "client",
            db.system.name = "redis",
            db.namespace = self.namespace,
            db.operation.name = operation,
            db.stored_procedure.name = script,
            db.operation.batch.size = batch_size,
            server.address = self.address,
            server.port = self.port,
            "error.type" = Empty,
            otel.status_code = Empty,
        );
        RedisSpan { span, ended: false }
    }
}

/// Span of a call to Redis. A call that is given up is recorded too.
#[derive(Debug)]
pub(crate) struct RedisSpan {
    span: Span,
    ended: bool,
}

impl RedisSpan {
    /// Records a call until its reply.
    pub(crate) fn record<T, F>(self, call: F) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.record_many(call, |_| None)
    }

    /// Records a call whose reply may contain failures.
    pub(crate) fn record_many<T, F>(
        self,
        call: F,
        failure: fn(&T) -> Option<&StoreError>,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        RecordFuture { call: call.instrument(self.span.clone()), span: self, failure }
    }

    fn end<T>(&mut self, reply: &Result<T, StoreError>, failure: fn(&T) -> Option<&StoreError>) {
        self.ended = true;
        if let Some(error) = reply.as_ref().map_or_else(Some, failure) {
            self.failed(match error.kind {
                StoreErrorKind::Unavailable => "unavailable",
                StoreErrorKind::Overloaded => "overloaded",
                StoreErrorKind::Corrupt => "corrupt",
            });
        }
    }

    fn failed(&self, error_type: &str) {
        self.span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}

pin_project! {
    /// A recorded call. Written out, since an async block stores its arguments twice, and each call of
    /// the service contains one.
    struct RecordFuture<T, F> {
        #[pin]
        call: Instrumented<F>,
        span: RedisSpan,
        failure: fn(&T) -> Option<&StoreError>,
    }
}

impl<T, F> Future for RecordFuture<T, F>
where
    F: Future<Output = Result<T, StoreError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let reply = ready!(this.call.poll(cx));
        this.span.end(&reply, *this.failure);
        Poll::Ready(reply)
    }
}

impl Drop for RedisSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.failed("cancelled");
        }
    }
}
