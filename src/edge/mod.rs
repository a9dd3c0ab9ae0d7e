//! What every request passes, in the order of CONTRACT section 4: draining, edge guard, routing,
//! identity; then the method itself.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::http::{Method, Request, Response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio_util::either::Either;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt};

use self::methods::{Answering, Methods, message_problem, refuse, refused};
use crate::edge::answer::{Body, Refusal};
use crate::edge::deadline::{Bound, Deadline};
use crate::edge::guard::{EdgeRate, Guarded, Limited, guard};
use crate::edge::routing::{Asked, Target};
use crate::edge::until_drain::UntilDrain;
use crate::identity::Identity;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::peer::Peer;
use crate::ops::health::HealthServer;
use crate::service::Service;
use crate::telemetry::metrics::{Metrics, RecordedMethod};
use crate::telemetry::{CallSpan, CallTrace, Traceparent};

pub mod answer;
pub mod deadline;
pub mod grpc;
pub mod guard;
pub mod http;
mod methods;
pub mod routing;
mod until_drain;

/// How an [`Edge`] treats calls.
#[derive(Debug)]
pub struct EdgeConfig {
    /// Bounds every unary call.
    pub call_timeout: Duration,
    /// How many calls a peer may make; none where the guard is off.
    pub edge_rate: Option<EdgeRate>,
    /// How callers prove who they are.
    pub identity: Identity,
}

/// The one service of the gRPC port. Clones share everything.
#[derive(Clone)]
pub struct Edge {
    front: Arc<Front>,
    behind_guard: Methods,
    /// The same with the guard in front of it, where there is one.
    guarded: Option<Guarded<Methods>>,
}

/// What stands in front of the guard.
struct Front {
    call_timeout: Duration,
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
    health: HealthServer,
}

/// What the guard makes of [`Answering`].
type Asking = <Guarded<Methods> as tower::Service<Request<Incoming>>>::Future;

/// What is known of a request once its head was read; in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who asks.
    pub peer: Peer,
    /// What for.
    pub asked: Asked,
    /// How long it may take.
    pub deadline: Deadline,
    /// What its events tell of its trace.
    pub traceparent: Option<Traceparent>,
}

impl Edge {
    /// An edge in front of the service.
    ///
    /// # Errors
    ///
    /// When the descriptors that reflection serves do not decode.
    pub fn new(
        config: EdgeConfig,
        service: Arc<Service>,
        health: HealthServer,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let EdgeConfig { call_timeout, edge_rate, identity } = config;
        let behind_guard =
            Methods::new(identity, service, lifecycle.clone(), Arc::clone(&metrics))?;
        let guarded = edge_rate.and_then(|rate| guard(rate, behind_guard.clone()));
        let front = Arc::new(Front { call_timeout, lifecycle, metrics, health });
        Ok(Self { front, behind_guard, guarded })
    }

    /// The service of one connection.
    pub fn of_peer(&self, peer: Peer) -> PeerEdge {
        PeerEdge { edge: self.clone(), peer }
    }

    /// Decides who answers. What stands behind the guard is always ready.
    fn answer(&self, asked: Asked, request: Request<Incoming>) -> Either<Answering, Asking> {
        let front = Arc::clone(&self.front);
        // Health is answered whatever else: in the drain, and to a peer that the guard stops.
        if asked.target == Target::Health {
            return Either::Left(Box::pin(async move { Ok(front.health(asked, request).await) }));
        }
        if front.lifecycle.phase() == Phase::Draining {
            return Either::Left(refused(&front.metrics, asked, Refusal::Draining));
        }
        match &self.guarded {
            Some(guarded) => Either::Right(guarded.clone().call(request)),
            None => Either::Left(self.behind_guard.clone().call(request)),
        }
    }
}

impl Front {
    async fn health(&self, asked: Asked, request: Request<Incoming>) -> Response<Body> {
        let Ok(response) = self.health.clone().oneshot(request).await;
        match message_problem(&response) {
            Some(refusal) => asked.refuse(refusal),
            None => UntilDrain::wrap(response, &self.lifecycle),
        }
    }

    /// What the guard says is put in the words of the caller's protocol.
    fn tell_limited(&self, asked: Asked, response: Response<Body>) -> Response<Body> {
        match response.extensions().get() {
            Some(&Limited(wait)) => {
                self.metrics.count_edge_limited();
                refuse(&self.metrics, asked, Refusal::EdgeLimited(wait))
            }
            None => response,
        }
    }
}

/// An edge as one peer sees it.
#[derive(Clone)]
pub struct PeerEdge {
    edge: Edge,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for PeerEdge {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let began = Instant::now();
        let Self { edge, peer } = self;
        let front = Arc::clone(&edge.front);
        let asked = Asked::of(&request);
        let wants_body = request.method() != Method::HEAD;
        let deadline =
            Deadline::of_call(began.into(), asked.wire, request.headers(), front.call_timeout);
        let trace = CallTrace::begin(asked, &request, &peer.security.scheme());
        let traceparent = trace.traceparent;
        request.extensions_mut().insert(Arrival { peer: *peer, asked, deadline, traceparent });
        let span = trace.span.clone();
        let recording = Recording { front, asked, deadline, began, span, answered: false };
        let answering = deadline.bound(edge.answer(asked, request));
        Box::pin(trace.around(Recorded { answering, recording, wants_body }))
    }
}

pin_project! {
    /// A call that is recorded. Not an async block: that one would hold the call twice.
    struct Recorded {
        #[pin]
        answering: Bound<Either<Answering, Asking>>,
        recording: Recording,
        wants_body: bool,
    }
}

impl Future for Recorded {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let recording = this.recording;
        let response = match ready!(this.answering.poll(cx)) {
            Ok(Ok(response)) => recording.front.tell_limited(recording.asked, response),
            Err(late) => refuse(&recording.front.metrics, recording.asked, late),
        };
        // Over HTTP/2 hyper would send it, and the client take that for a broken protocol.
        let response = if *this.wants_body { response } else { response.map(|_| Body::empty()) };
        Poll::Ready(Ok(recording.answer(response)))
    }
}

/// Records how a call ended, which may be that its caller hung up: the answer's future is dropped
/// then.
struct Recording {
    front: Arc<Front>,
    asked: Asked,
    deadline: Deadline,
    began: Instant,
    span: CallSpan,
    answered: bool,
}

impl Recording {
    /// How much earlier than its deadline a caller may hang up for it: clocks and networks differ.
    const HANG_UP_SLACK: Duration = Duration::from_millis(100);

    fn answer(&mut self, response: Response<Body>) -> Response<Body> {
        self.answered = true;
        let code = unary_code(&response);
        if let Some((method, elapsed)) = self.record(code) {
            tracing::debug!(?method, ?code, ?elapsed, "answered");
        }
        self.span.answered(self.asked, response, code)
    }

    fn record(&self, code: Code) -> Option<(RecordedMethod, Duration)> {
        let method = self.asked.recorded_method()?;
        let elapsed = self.began.elapsed();
        self.front.metrics.record_call(method, code, elapsed);
        Some((method, elapsed))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let late = self.deadline.has_passed(Self::HANG_UP_SLACK);
        if late && self.asked.is_mark() {
            self.front.metrics.count_mark_read(&Err(Refusal::DeadlineExceeded));
        }
        let code = if late { Code::DeadlineExceeded } else { Code::Cancelled };
        if let Some((method, elapsed)) = self.record(code) {
            tracing::debug!(?method, ?code, ?elapsed, "the caller hung up");
        }
        self.span.abandoned(code);
    }
}

/// A unary answer's status: in its head where it failed, else it is OK.
fn unary_code(response: &Response<Body>) -> Code {
    let status = response.headers().get(Status::GRPC_STATUS);
    status.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerEdge").field("peer", &self.peer).finish_non_exhaustive()
    }
}
