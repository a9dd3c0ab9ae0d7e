//! What every request passes, in the order of CONTRACT section 4: draining, edge guard, routing,
//! identity; then the method itself.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::deadline::Deadline;
use crate::edge_guard::{EdgeRate, Guarded, Limited, guard};
use crate::grpc::one_message::OneMessage;
use crate::grpc::{self, Call, Grpc, MESSAGE_MAX_BYTES};
use crate::health::HealthServer;
use crate::http::form::Form;
use crate::identity::oauth1::Signed;
use crate::identity::{Identity, Presented, Proof};
use crate::lifecycle::{Lifecycle, Phase};
use crate::metrics::{Metrics, RecordedMethod};
use crate::peer::Peer;
use crate::routing::{Asked, Rpc, Target};
use crate::service::Service;
use crate::status::{Body, Refusal};
use crate::telemetry::{CallSpan, CallTrace, Traceparent};
use crate::until_drain::UntilDrain;

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

/// What stands behind it.
#[derive(Clone)]
struct Methods(Arc<Routes>);

struct Routes {
    identity: Identity,
    service: Arc<Service>,
    methods: grpc::Server,
    reflection_v1: BoxService,
    reflection_v1alpha: BoxService,
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
}

/// What the paths of gRPC take.
const GRPC: &str = "gRPC: application/grpc over HTTP/2";

type BoxService = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

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
        let behind_guard = Methods(Arc::new(Routes {
            identity,
            methods: Grpc::server(Arc::clone(&service)),
            service,
            reflection_v1: BoxService::new(
                reflection().build_v1()?.max_decoding_message_size(MESSAGE_MAX_BYTES),
            ),
            reflection_v1alpha: BoxService::new(
                reflection().build_v1alpha()?.max_decoding_message_size(MESSAGE_MAX_BYTES),
            ),
            lifecycle: lifecycle.clone(),
            metrics: Arc::clone(&metrics),
        }));
        let guarded = edge_rate.and_then(|rate| guard(rate, behind_guard.clone()));
        let front = Arc::new(Front { call_timeout, lifecycle, metrics, health });
        Ok(Self { front, behind_guard, guarded })
    }

    /// The service of one connection.
    pub fn of_peer(&self, peer: Peer) -> PeerEdge {
        PeerEdge { edge: self.clone(), peer }
    }

    async fn answer(self, asked: Asked, request: Request<Incoming>) -> Response<Body> {
        // Health is answered whatever else: in the drain, and to a peer that the guard stops.
        if asked.target == Target::Health {
            let Ok(response) = self.front.health.clone().oneshot(request).await;
            return match message_problem(&response) {
                Some(refusal) => asked.refuse(refusal),
                None => UntilDrain::wrap(response, &self.front.lifecycle),
            };
        }
        if self.front.lifecycle.phase() == Phase::Draining {
            return refuse(&self.front.metrics, asked, Refusal::Draining);
        }
        let Ok(response) = match self.guarded {
            Some(guarded) => guarded.oneshot(request).await,
            None => self.behind_guard.oneshot(request).await,
        };
        if let Some(&Limited(wait)) = response.extensions().get() {
            self.front.metrics.count_edge_limited();
            return refuse(&self.front.metrics, asked, Refusal::EdgeLimited(wait));
        }
        response
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
        let edge = self.edge.clone();
        let metrics = Arc::clone(&edge.front.metrics);
        let asked = Asked::of(&request);
        let wants_body = request.method() != Method::HEAD;
        let deadline =
            Deadline::starting_now(asked.wire, request.headers(), edge.front.call_timeout);
        let trace = CallTrace::begin(asked, &request, &self.peer.security.scheme());
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(deadline);
        if let Some(traceparent) = trace.traceparent {
            request.extensions_mut().insert(traceparent);
        }
        let span = trace.span.clone();
        let mut recording = Recording { metrics, asked, deadline, began, span, answered: false };
        // On the heap before anything is wrapped around it: each wrapper would move all of it.
        let answering = Box::pin(edge.answer(asked, request));
        let call = async move {
            let answered = deadline.bound(answering).await;
            let response = answered.unwrap_or_else(|late| refuse(&recording.metrics, asked, late));
            // Over HTTP/2 hyper would send it, and the client take that for a broken protocol.
            let response = if wants_body { response } else { response.map(|_| Body::empty()) };
            Ok(recording.answer(response))
        };
        Box::pin(trace.around(call))
    }
}

/// Records how a call ended, which may be that its caller hung up: the answer's future is dropped
/// then.
struct Recording {
    metrics: Arc<Metrics>,
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
        if let Some((method, elapsed_us)) = self.record(code) {
            tracing::debug!(?method, ?code, elapsed_us, "answered");
        }
        self.span.answered(self.asked, response, code)
    }

    fn record(&self, code: Code) -> Option<(RecordedMethod, u128)> {
        let method = self.asked.recorded_method()?;
        self.metrics.record_call(method, code, self.began);
        Some((method, self.began.elapsed().as_micros()))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let late = self.deadline.has_passed(Self::HANG_UP_SLACK);
        if late && self.asked.is_mark() {
            self.metrics.count_mark_read(&Err(Refusal::DeadlineExceeded));
        }
        let code = if late { Code::DeadlineExceeded } else { Code::Cancelled };
        if let Some((method, elapsed_us)) = self.record(code) {
            tracing::debug!(?method, ?code, elapsed_us, "the caller hung up");
        }
        self.span.abandoned(code);
    }
}

impl tower::Service<Request<Incoming>> for Methods {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let routes = Arc::clone(&self.0);
        Box::pin(async move { Ok(routes.answer(request).await) })
    }
}

impl Routes {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let asked = Asked::of(&request);
        let answered = match asked.target {
            Target::Rpc(Rpc::WatchMarkReadEvents) => {
                let answered = self.method(request).await;
                answered.map(|response| UntilDrain::wrap(response, &self.lifecycle))
            }
            Target::Rpc(_) => self.method(request).await,
            Target::MarkReadJson => self.mark_read_json(request).await,
            Target::ReflectionV1 => Ok(self.stream(&self.reflection_v1, request).await),
            Target::ReflectionV1Alpha => Ok(self.stream(&self.reflection_v1alpha, request).await),
            Target::Unknown => Err(Refusal::Unknown),
            Target::WrongHttpMethod => Err(Refusal::WrongHttpMethod),
            Target::WrongContentType => Err(Refusal::WrongContentType { takes: GRPC }),
            // The edge answers it in front of the guard.
            Target::Health => Err(Refusal::Internal),
        };
        answered.unwrap_or_else(|refusal| refuse(&self.metrics, asked, refusal))
    }

    async fn method(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (deadline, Peer { security, .. }) = known(request.extensions())?;
        let presented = Presented { headers: request.headers(), security, signed: None, deadline };
        let Proof { reader, until, .. } = self.identity.authenticate(&presented).await?;
        // A timer looks at the call before the time: one that is late already must not begin.
        if deadline.has_passed(Duration::ZERO) {
            return Err(Refusal::DeadlineExceeded);
        }
        let traceparent = request.extensions().get::<Traceparent>().copied();
        request.extensions_mut().insert(Call { reader, until, deadline, traceparent });
        let request = request.map(OneMessage::new);
        let Ok(response) = self.methods.clone().oneshot(request).await;
        message_problem(&response).map_or(Ok(response), Err)
    }

    async fn mark_read_json(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let (deadline, Peer { security, .. }) = known(&head.extensions)?;
        let form = Form::read(&head, body).await?;
        let signed = Some(Signed { head: &head, form: &form, scheme: security.scheme() });
        let presented = Presented { headers: &head.headers, security, signed, deadline };
        let proof = self.identity.authenticate(&presented).await?;
        if let Some(nonce) = proof.nonce {
            self.service.use_nonce(nonce, deadline).await?;
        }
        let traceparent = head.extensions.get::<Traceparent>().copied();
        Ok(crate::http::mark_read(&self.service, proof.reader, &form, deadline, traceparent).await)
    }

    async fn stream(&self, service: &BoxService, request: Request<Incoming>) -> Response<Body> {
        let Ok(response) = service.clone().oneshot(request).await;
        UntilDrain::wrap(response, &self.lifecycle)
    }
}

/// What every request's extensions hold, once it has passed the front.
fn known(extensions: &http::Extensions) -> Result<(Deadline, Peer), Refusal> {
    let known = extensions.get().copied().zip(extensions.get().copied());
    known.ok_or(Refusal::Internal)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl can show what an error carries.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Answers a refusal that was decided outside the method, and counts it where it was a mark.
fn refuse(metrics: &Metrics, asked: Asked, refusal: Refusal) -> Response<Body> {
    if asked.is_mark() {
        metrics.count_mark_read(&Err(refusal.clone()));
    }
    asked.refuse(refusal)
}

/// What tonic finds wrong with a message, in the contract's terms. Its answers are told from ours by
/// the details, which only ours carry.
fn message_problem(response: &Response<Body>) -> Option<Refusal> {
    let headers = response.headers();
    let code = headers.get(Status::GRPC_STATUS)?;
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return None;
    }
    match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => Some(Refusal::MessageTooLarge { max_bytes: MESSAGE_MAX_BYTES }),
        Code::Internal => Some(Refusal::MalformedMessage),
        Code::Unimplemented => Some(Refusal::Compressed),
        _ => None,
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
