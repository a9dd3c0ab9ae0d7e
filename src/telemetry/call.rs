//! A call's span, by OpenTelemetry's conventions for RPC and HTTP servers (1.44), and its place in
//! a trace. No attribute carries a user, a message or what else a caller chose.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use opentelemetry::trace::{SpanId, TraceContextExt, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::SPANS;
use super::traceparent::{Traceparent, tracestate};
use crate::edge::answer::Body;
use crate::edge::routing::{Asked, Target, Wire};
use crate::proto::Rpc;
use crate::proto::codes::code_name;

/// A call in its trace.
#[derive(Debug)]
pub struct CallTrace {
    /// What every log line about the call carries.
    ids: TraceIds,
    /// What an event of the call tells on: its own span where it is recorded, or else what the
    /// caller said.
    pub traceparent: Option<Traceparent>,
    /// What the collector is sent of it.
    pub span: CallSpan,
}

impl CallTrace {
    /// The trace that a call belongs to: its caller's, or a new one.
    pub fn begin<B>(asked: Asked, request: &Request<B>, scheme: &Scheme) -> Self {
        let headers = request.headers();
        let caller = Traceparent::of(headers);
        let span = CallSpan::new(asked, request.method(), scheme);
        let own = span.join(caller, headers);
        let traceparent = own.or(caller);
        let trace_id = traceparent.map_or_else(new_trace_id, |known| known.trace_id);
        let ids = TraceIds { trace_id, span_id: own.map(|own| own.span_id) };
        Self { ids, traceparent, span }
    }

    /// The call's work, with what it says and does in its trace.
    pub fn around<F: Future>(self, call: F) -> impl Future<Output = F::Output> {
        let call = call.instrument(self.span.span);
        // At debug level all that a call runs through says something. Else hardly a call says anything,
        // and a span for it would cost each call what only some need: `in_call` makes it.
        let (ids, lines) = if tracing::enabled!(tracing::Level::DEBUG) {
            (None, self.ids.lines())
        } else {
            (Some(self.ids), Span::none())
        };
        InCall { ids, call: call.instrument(lines) }
    }
}

/// What a log line carries of a call.
#[derive(Clone, Copy, Debug)]
struct TraceIds {
    trace_id: TraceId,
    span_id: Option<SpanId>,
}

impl TraceIds {
    fn lines(self) -> Span {
        tracing::error_span!("call", trace_id = %self.trace_id, span_id = self.span_id.map(display))
    }
}

thread_local! {
    /// Of the call that this thread works on.
    static CURRENT: Cell<Option<TraceIds>> = const { Cell::new(None) };
}

/// Says something in a call: what lines above debug level are to be said in, where they may be about
/// a call.
pub fn in_call(say: impl FnOnce()) {
    match CURRENT.get() {
        Some(ids) => ids.lines().in_scope(say),
        None => say(),
    }
}

pin_project! {
    /// A call's work, which knows its trace wherever it goes on.
    struct InCall<F> {
        ids: Option<TraceIds>,
        #[pin]
        call: F,
    }
}

impl<F: Future> Future for InCall<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let outer = CURRENT.replace(*this.ids);
        let polled = this.call.poll(cx);
        CURRENT.set(outer);
        polled
    }
}

fn new_trace_id() -> TraceId {
    RandomIdGenerator::default().new_trace_id()
}

/// What the collector is sent of a call; nothing where traces are off.
#[derive(Clone, Debug)]
pub struct CallSpan {
    span: Span,
    wire: Wire,
}

impl CallSpan {
    fn new(Asked { wire, target }: Asked, method: &Method, scheme: &Scheme) -> Self {
        let span = match (wire, target) {
            // Probes and people that look around would fill what is kept of traces.
            (_, Target::Health | Target::ReflectionV1 | Target::ReflectionV1Alpha) => Span::none(),
            (Wire::Grpc, target) => {
                let method = match target {
                    Target::Rpc(rpc) => rpc.full_name(),
                    // What was asked for could be anything.
                    _ => "_OTHER",
                };
                tracing::info_span!(
                    target: SPANS,
                    parent: None,
                    "call",
                    otel.name = method,
                    otel.kind = "server",
                    rpc.system.name = "grpc",
                    rpc.method = method,
                    rpc.response.status_code = Empty,
                    "error.type" = Empty,
                    otel.status_code = Empty,
                )
            }
            (Wire::Http, target) => {
                let route = (target == Target::MarkReadJson).then_some(Target::MARK_READ_JSON);
                tracing::info_span!(
                    target: SPANS,
                    parent: None,
                    "call",
                    otel.name = http_name(method, route),
                    otel.kind = "server",
                    http.request.method = known_method(method).unwrap_or("_OTHER"),
                    http.route = route,
                    url.path = route,
                    url.scheme = scheme.as_str(),
                    http.response.status_code = Empty,
                    "error.type" = Empty,
                    otel.status_code = Empty,
                )
            }
        };
        Self { span, wire }
    }

    /// Takes its place in the trace, and tells it where the span is recorded.
    fn join(&self, caller: Option<Traceparent>, headers: &HeaderMap) -> Option<Traceparent> {
        if self.span.is_disabled() {
            return None;
        }
        if let Some(caller) = caller {
            let caller = caller.context(tracestate(headers));
            let parent = opentelemetry::Context::new().with_remote_span_context(caller);
            // It fails on a span that has begun, and this one has not.
            let _ = self.span.set_parent(parent);
        }
        let context = self.span.context();
        let span = context.span();
        span.is_recording().then(|| Traceparent::of_span(span.span_context()))
    }

    /// Tells how the call was answered. The answer of a watch goes on, and its span with it.
    pub fn answered(&self, asked: Asked, response: Response<Body>, code: Code) -> Response<Body> {
        if self.span.is_disabled() {
            return response;
        }
        if asked.target == Target::Rpc(Rpc::WatchMarkReadEvents) && code == Code::Ok {
            return response
                .map(|body| Body::new(Watched { body, span: self.clone(), code: None }));
        }
        match self.wire {
            Wire::Grpc => self.ended(code),
            Wire::Http => self.ended_over_http(response.status()),
        }
        response
    }

    /// Tells that the call ended without an answer.
    pub fn abandoned(&self, code: Code) {
        // Over HTTP there is no status that says it.
        if self.wire == Wire::Grpc {
            self.ended(code);
        }
    }

    fn ended(&self, code: Code) {
        let name = code_name(code);
        self.span.record("rpc.response.status_code", name);
        if is_server_error(code) {
            self.failed(name);
        }
    }

    fn ended_over_http(&self, status: StatusCode) {
        self.span.record("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.failed(status.as_str());
        }
    }

    fn failed(&self, error_type: &str) {
        self.span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}

/// The codes that tell of a server's own error: a reader that is limited is none.
fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn http_name(method: &Method, route: Option<&str>) -> String {
    let method = known_method(method).unwrap_or("HTTP");
    route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
}

/// The methods that the conventions know; any other text could be a caller's.
fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// A streaming answer, whose end is its call's.
struct Watched {
    body: Body,
    span: CallSpan,
    code: Option<Code>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            let code = trailers.get(Status::GRPC_STATUS);
            self.code = code.map(|code| Code::from_bytes(code.as_bytes()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A span ends where it was last entered.
        let _entered = self.span.span.enter();
        self.span.ended(self.code.unwrap_or(Code::Cancelled));
    }
}
