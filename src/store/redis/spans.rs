//! Spans of what Redis is asked for a call, by OpenTelemetry's conventions for database clients
//! (1.44). No key, and nothing that stands in a command, is told.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use redis::{ConnectionAddr, ConnectionInfo};
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};

use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry::{SPANS, in_traced_call};

/// What is told of the Redis that is asked.
#[derive(Debug)]
pub(crate) struct Spans {
    address: String,
    port: Option<i64>,
    /// The number of its database.
    namespace: String,
}

impl Spans {
    pub(crate) fn of(redis: &ConnectionInfo) -> Self {
        let (address, port) = match redis.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), Some(i64::from(*port)))
            }
            other => (other.to_string(), None),
        };
        Self { address, port, namespace: redis.redis_settings().db().to_string() }
    }

    /// A call of a script that does so many of what its name says.
    pub(crate) fn script(&self, name: &'static str, count: usize) -> Asking {
        self.begin("EVALSHA", Some(name), count)
    }

    /// A command, or so many in one go.
    pub(crate) fn command(&self, name: &'static str, count: usize) -> Asking {
        self.begin(name, None, count)
    }

    fn begin(&self, operation: &str, script: Option<&'static str>, count: usize) -> Asking {
        // What the server does of its own belongs to no trace.
        if !in_traced_call() {
            return Asking { span: Span::none(), ended: true };
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
        Asking { span, ended: false }
    }
}

/// A question to Redis that is traced. One that is given up is told of as well.
#[derive(Debug)]
pub(crate) struct Asking {
    span: Span,
    ended: bool,
}

impl Asking {
    /// Waits for the answer.
    pub(crate) fn of<T, F>(self, asked: F) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.of_many(asked, |_| None)
    }

    /// Waits for an answer that may be good and hold failures nevertheless.
    pub(crate) fn of_many<T, F>(
        self,
        asked: F,
        failure: fn(&T) -> Option<&StoreError>,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        Answered { asked: asked.instrument(self.span.clone()), asking: self, failure }
    }

    fn answered<T>(
        &mut self,
        answer: &Result<T, StoreError>,
        failure: fn(&T) -> Option<&StoreError>,
    ) {
        self.ended = true;
        if let Some(error) = answer.as_ref().map_or_else(Some, failure) {
            self.failed(match error.kind {
                StoreErrorKind::Unavailable => "unavailable",
                StoreErrorKind::Corrupt => "corrupt",
            });
        }
    }

    fn failed(&self, error_type: &str) {
        self.span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}

pin_project! {
    /// The answer to a question. Not an async block: that one would hold what is asked twice, and a
    /// call carries it.
    struct Answered<T, F> {
        #[pin]
        asked: Instrumented<F>,
        asking: Asking,
        failure: fn(&T) -> Option<&StoreError>,
    }
}

impl<T, F> Future for Answered<T, F>
where
    F: Future<Output = Result<T, StoreError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.asked.poll(cx));
        this.asking.answered(&answer, *this.failure);
        Poll::Ready(answer)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.ended {
            self.failed("cancelled");
        }
    }
}
