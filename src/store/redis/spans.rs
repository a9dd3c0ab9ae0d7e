//! Spans of what Redis is asked for a call, by OpenTelemetry's conventions for database clients
//! (1.44). No key, and nothing that stands in a command, is told.

use redis::{ConnectionAddr, ConnectionInfo};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry::{SPANS, in_traced_call};

/// What is told of the Redis that is asked.
#[derive(Debug)]
pub(super) struct Spans {
    address: String,
    port: Option<i64>,
    /// The number of its database.
    namespace: String,
}

impl Spans {
    pub(super) fn of(redis: &ConnectionInfo) -> Self {
        let (address, port) = match redis.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), Some(i64::from(*port)))
            }
            other => (other.to_string(), None),
        };
        Self { address, port, namespace: redis.redis_settings().db().to_string() }
    }

    /// A call of a script that does so many of what its name says.
    pub(super) fn script(&self, name: &'static str, count: usize) -> Asking {
        self.begin("EVALSHA", Some(name), count)
    }

    /// A command, or so many in one go.
    pub(super) fn command(&self, name: &'static str, count: usize) -> Asking {
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
pub(super) struct Asking {
    span: Span,
    ended: bool,
}

impl Asking {
    /// Waits for the answer.
    pub(super) async fn of<T>(
        self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.of_many(asked, |_| None).await
    }

    /// Waits for an answer that may be good and hold failures nevertheless.
    pub(super) async fn of_many<T>(
        mut self,
        asked: impl Future<Output = Result<T, StoreError>>,
        failure: impl FnOnce(&T) -> Option<&StoreError>,
    ) -> Result<T, StoreError> {
        let answer = asked.instrument(self.span.clone()).await;
        self.ended = true;
        if let Some(error) = answer.as_ref().map_or_else(Some, failure) {
            self.failed(match error.kind {
                StoreErrorKind::Unavailable => "unavailable",
                StoreErrorKind::Corrupt => "corrupt",
            });
        }
        answer
    }

    fn failed(&self, error_type: &str) {
        self.span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.ended {
            self.failed("cancelled");
        }
    }
}
