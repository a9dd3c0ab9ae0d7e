//! A call's span, by OpenTelemetry's conventions for RPC and HTTP servers (1.44), and its place in a
//! trace. No attribute carries a user, a message or any other text that a caller chose.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::uri::Scheme;
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use opentelemetry::trace::{TraceContextExt, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tonic::{Code, Status};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::answer::Body;
use super::routing::{Protocol, Route, Target};
use crate::proto::Rpc;
use crate::proto::codes::code_name;
use crate::telemetry::{CallIds, SPANS, Traceparent, tracestate};

/// A call's place in its trace.
#[derive(Debug)]
pub struct CallTrace {
    /// The trace that is stored beside the call's events: with the call's own span if that is recorded,
    /// otherwise the caller's.
    pub traceparent: Option<Traceparent>,
    /// The span for the collector.
    pub span: CallSpan,
    /// The span that log lines are written in at debug level.
    pub log_span: Span,
    /// IDs for log lines above debug level. Few calls write one, so `telemetry::in_call` creates the span
    /// of such a line only when it is needed.
    pub ids: Option<CallIds>,
}

impl CallTrace {
    /// Joins the caller's trace, or begins a new one.
    pub fn new<B>(route: Route, request: &Request<B>, scheme: &Scheme) -> Self {
        let headers = request.headers();
        let caller = Traceparent::from_headers(headers);
        let span = CallSpan::new(route, request.method(), scheme);
        let own = span.join(caller, headers);
        let traceparent = own.or(caller);
        let trace_id = traceparent.map_or_else(new_trace_id, |known| known.trace_id);
        let ids = CallIds { trace_id, span_id: own.map(|own| own.span_id) };
        let (log_span, ids) = if tracing::enabled!(tracing::Level::DEBUG) {
            (ids.log_span(), None)
        } else {
            (Span::none(), Some(ids))
        };
        Self { traceparent, span, log_span, ids }
    }
}

fn new_trace_id() -> TraceId {
    RandomIdGenerator::default().new_trace_id()
}

/// The span of a call for the collector; disabled if traces are off.
#[derive(Clone, Debug)]
pub struct CallSpan {
    span: Span,
    protocol: Protocol,
}

impl CallSpan {
    fn new(Route { protocol, target }: Route, method: &Method, scheme: &Scheme) -> Self {
        let span = match (protocol, target) {
            // Probes and tools would fill the collector.
            (_, Target::Health(_) | Target::Reflection(_)) => Span::none(),
            (Protocol::Grpc, target) => {
                let method = match target {
                    Target::Rpc(rpc) => rpc.full_name(),
                    // The path can be any text.
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
            (Protocol::Http, target) => {
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
        Self { span, protocol }
    }

    /// Returns the span, to be entered while the call is worked on.
    pub(super) fn inner(&self) -> &Span {
        &self.span
    }

    /// Makes the caller's span its parent. Returns its own traceparent if the span is recorded.
    fn join(&self, caller: Option<Traceparent>, headers: &HeaderMap) -> Option<Traceparent> {
        if self.span.is_disabled() {
            return None;
        }
        if let Some(caller) = caller {
            let caller = caller.context(tracestate(headers));
            let parent = opentelemetry::Context::new().with_remote_span_context(caller);
            // Fails only on a span that was entered before.
            let _ = self.span.set_parent(parent);
        }
        let context = self.span.context();
        let span = context.span();
        span.is_recording().then(|| Traceparent::from_span(span.span_context()))
    }

    /// Ends the span with the answer. That of a watch ends with the stream.
    pub fn end(&self, route: Route, response: Response<Body>, code: Code) -> Response<Body> {
        if self.span.is_disabled() {
            return response;
        }
        if route.target == Target::Rpc(Rpc::WatchMarkReadEvents) && code == Code::Ok {
            return response
                .map(|body| Body::new(WatchBody { body, span: self.clone(), code: None }));
        }
        match self.protocol {
            Protocol::Grpc => self.record_code(code),
            Protocol::Http => self.record_http_status(response.status()),
        }
        response
    }

    /// Ends the span of a call without an answer.
    pub fn abandon(&self, code: Code) {
        // Plain HTTP has no status for it.
        if self.protocol == Protocol::Grpc {
            self.record_code(code);
        }
    }

    fn record_code(&self, code: Code) {
        let name = code_name(code);
        self.span.record("rpc.response.status_code", name);
        if is_server_error(code) {
            self.record_error(name);
        }
    }

    fn record_http_status(&self, status: StatusCode) {
        self.span.record("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.record_error(status.as_str());
        }
    }

    fn record_error(&self, error_type: &str) {
        self.span.record("error.type", error_type).record("otel.status_code", "ERROR");
    }
}

/// Returns whether a code means an error of the server. A limited reader is not one.
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

/// Returns the method if the conventions list it: any other text may be chosen by a caller.
fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// The body of a watch, whose end is the end of its call.
struct WatchBody {
    body: Body,
    span: CallSpan,
    code: Option<Code>,
}

impl HttpBody for WatchBody {
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

impl Drop for WatchBody {
    fn drop(&mut self) {
        // A span ends where it was last entered.
        let _entered = self.span.span.enter();
        self.span.record_code(self.code.unwrap_or(Code::Cancelled));
    }
}
