//! A call from its head to its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::http::Response;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout_at};
use tonic::{Code, Status};
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};

use super::answer::{Answer, Body};
use super::arrival::Arrival;
use super::trace::{CallSpan, CallTrace};
use crate::proto::Rpc;
use crate::telemetry::CallIds;
use crate::telemetry::metrics::{MarkOutcome, Metrics};

/// A method at work. A box of its own, since it is large until it has begun, and each layer around it would
/// copy it once more.
type MethodFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A call. Boxed, since its task and the connection move it.
pub(super) type CallFuture = Pin<Box<Call>>;

pin_project! {
    /// A call: its method, bounded by its deadline, inside its trace; in the end its answer is counted
    /// and recorded. Written out as one future, since nested async functions store their arguments twice
    /// (`cargo bench --bench instructions`).
    pub struct Call {
        #[pin]
        method: Timeout<Instrumented<Instrumented<MethodFuture>>>,
        ids: Option<CallIds>,
        record: CallRecord,
        is_head: bool,
    }
}

/// A call whose method is not chosen yet.
pub(super) struct NewCall {
    pub(super) arrival: Arrival,
    pub(super) began: Instant,
    pub(super) is_head: bool,
    pub(super) trace: CallTrace,
    pub(super) metrics: Arc<Metrics>,
}

impl NewCall {
    /// Returns the call with its method.
    pub(super) fn run(self, method: impl Future<Output = Answer> + Send + 'static) -> CallFuture {
        self.run_boxed(Box::pin(method))
    }

    fn run_boxed(self, method: MethodFuture) -> CallFuture {
        let Self { arrival, began, is_head, trace, metrics } = self;
        let CallTrace { span, log_span, ids, .. } = trace;
        let method = method.instrument(span.inner().clone()).instrument(log_span.clone());
        let method = timeout_at(arrival.deadline.end(), method);
        let record = CallRecord { arrival, began, span, log_span, metrics, answered: false };
        Box::pin(Call { method, ids, record, is_head })
    }
}

impl Future for Call {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        CallIds::scope(*this.ids, || {
            let Arrival { route, deadline, .. } = this.record.arrival;
            let answer = ready!(this.method.poll(cx))
                .unwrap_or_else(|_| Answer::refused(route, deadline.refusal()));
            let response = this.record.finish(answer);
            // hyper would send the body over HTTP/2 too, which is a protocol error for clients.
            Poll::Ready(Ok(if *this.is_head { response.map(|_| Body::empty()) } else { response }))
        })
    }
}

/// Counts and records how a call ended. If the caller hangs up, the future is dropped without an
/// answer, and `drop` records that.
struct CallRecord {
    arrival: Arrival,
    began: Instant,
    span: CallSpan,
    log_span: Span,
    metrics: Arc<Metrics>,
    answered: bool,
}

impl CallRecord {
    /// How much earlier than its deadline a caller may hang up because of it: clocks and networks
    /// differ.
    const HANG_UP_SLACK: Duration = Duration::from_millis(100);

    fn finish(&mut self, answer: Answer) -> Response<Body> {
        self.answered = true;
        let Answer { response, marks } = answer;
        marks.count(&self.metrics);
        let code = unary_code(&response);
        if let Some((method, elapsed)) = self.record_duration(code) {
            self.log_span.in_scope(|| tracing::debug!(method, ?code, ?elapsed, "answered"));
        }
        self.span.end(self.arrival.route, response, code)
    }

    /// Records the call's duration if it was unary. A stream ends long after its head is answered.
    fn record_duration(&self, code: Code) -> Option<(&'static str, Duration)> {
        let rpc = self.arrival.route.recorded_rpc()?;
        let elapsed = self.began.elapsed();
        self.metrics.record_call(rpc, code, elapsed);
        Some((rpc.map_or("_OTHER", Rpc::full_name), elapsed))
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let late = self.arrival.deadline.has_passed(Self::HANG_UP_SLACK);
        if late && self.arrival.route.is_mark() {
            self.metrics.count_mark(MarkOutcome::Deadline);
        }
        let code = if late { Code::DeadlineExceeded } else { Code::Cancelled };
        if let Some((method, elapsed)) = self.record_duration(code) {
            self.log_span
                .in_scope(|| tracing::debug!(method, ?code, ?elapsed, "the caller hung up"));
        }
        self.span.abandon(code);
    }
}

/// Returns a unary answer's status: it is in the head if the call failed, else the call is OK.
fn unary_code(response: &Response<Body>) -> Code {
    if response.body().is_message() {
        return Code::Ok;
    }
    let status = response.headers().get(Status::GRPC_STATUS);
    status.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}
