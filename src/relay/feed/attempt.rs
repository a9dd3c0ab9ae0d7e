//! One attempt to deliver, with its span and metrics.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::trace::TraceContextExt;
use tokio::time::{Instant, timeout};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Outcome;
use crate::domain::DeliveryId;
use crate::relay::body::delivery_body;
use crate::relay::endpoint::{AttemptPermit, Endpoint};
use crate::relay::lanes::LaneKey;
use crate::relay::receiver::{Attempt, Delivery, Failure, FailureKind};
use crate::telemetry::metrics::relay::AttemptOutcome;
use crate::telemetry::{SPANS, Traceparent};

/// Longest time of an attempt, whatever the receiver is: it ends by itself after 10 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters of one attempt.
pub(super) struct AttemptParts {
    pub(super) key: LaneKey,
    pub(super) id: DeliveryId,
    pub(super) payload: Bytes,
    pub(super) traceparent: Option<Traceparent>,
    /// When the lease is over.
    pub(super) valid_until: Instant,
}

/// Attempts to deliver once.
pub(super) async fn attempt(
    endpoint: Arc<Endpoint>,
    permit: AttemptPermit,
    parts: AttemptParts,
) -> Outcome {
    let AttemptParts { key, id, payload, traceparent, valid_until } = parts;
    let started = Instant::now();
    // The process may have been stopped since the attempt was begun.
    if started >= valid_until {
        return Outcome::NotAttempted(key);
    }
    let Some(body) = delivery_body(&payload, key.for_user) else {
        return Outcome::Undeliverable(key);
    };
    drop(payload);
    let in_flight = endpoint.metrics.start_attempt();
    let span = span(endpoint.name.as_str(), traceparent);
    let delivery = Delivery { id, body };
    let call = timeout(ATTEMPT_TIMEOUT, permit.webhook.receiver.deliver(&delivery));
    let result = if span.is_disabled() { call.await } else { call.instrument(span.clone()).await };
    let result = result.unwrap_or_else(|_| Attempt::Failed(no_result()));
    drop(in_flight);
    endpoint.metrics.count_attempt(outcome(&result), started.elapsed());
    record(&span, &result);
    match &result {
        Attempt::Delivered(_) => permit.succeed(Instant::now()),
        Attempt::Gone => permit.stop(),
        Attempt::Failed(failure) => permit.fail(Instant::now(), failure),
    }
    Outcome::Attempted(key, result)
}

fn no_result() -> Failure {
    let detail = "no result in time".to_owned();
    Failure { kind: FailureKind::Timeout, status: None, detail, retry_after: None }
}

fn outcome(attempt: &Attempt) -> AttemptOutcome {
    match attempt {
        Attempt::Delivered(_) => AttemptOutcome::Delivered,
        Attempt::Gone => AttemptOutcome::Gone,
        Attempt::Failed(failure) => match failure.kind {
            FailureKind::Status => AttemptOutcome::Status,
            FailureKind::Throttled => AttemptOutcome::Throttled,
            FailureKind::Timeout => AttemptOutcome::Timeout,
            FailureKind::Connection => AttemptOutcome::Connection,
            FailureKind::Address => AttemptOutcome::Address,
            FailureKind::Tls => AttemptOutcome::Tls,
            FailureKind::Response => AttemptOutcome::Response,
        },
    }
}

/// Starts the span of an attempt, in the trace of the event, by OpenTelemetry's conventions for HTTP clients
/// (1.44). It has no address: a URL may contain a secret.
fn span(webhook: &str, traceparent: Option<Traceparent>) -> Span {
    let span = tracing::info_span!(
        target: SPANS,
        parent: None,
        "deliver",
        otel.name = "POST",
        otel.kind = "client",
        http.request.method = "POST",
        http.response.status_code = Empty,
        markread.webhook = webhook,
        "error.type" = Empty,
        otel.status_code = Empty,
    );
    if let Some(parent) = traceparent.filter(|_| !span.is_disabled()) {
        let parent = parent.context(opentelemetry::trace::TraceState::NONE);
        let parent = opentelemetry::Context::new().with_remote_span_context(parent);
        // Fails only on a span that was entered before.
        let _ = span.set_parent(parent);
    }
    span
}

fn record(span: &Span, attempt: &Attempt) {
    if span.is_disabled() {
        return;
    }
    let status = match attempt {
        Attempt::Delivered(status) => Some(*status),
        Attempt::Gone => Some(410),
        Attempt::Failed(failure) => failure.status,
    };
    if let Some(status) = status {
        span.record("http.response.status_code", i64::from(status));
    }
    if !matches!(attempt, Attempt::Delivered(_)) {
        let status = status.map(|status| status.to_string());
        let error_type = status.as_deref().unwrap_or_else(|| outcome(attempt).label());
        span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}
