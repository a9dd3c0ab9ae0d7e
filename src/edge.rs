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
use tokio_util::either::Either;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt};

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

/// The same from behind the guard.
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
        let mut recording = Recording { front, asked, deadline, began, span, answered: false };
        let answering = edge.answer(asked, request);
        let call = async move {
            let answered = deadline.bound(answering).await;
            let response = match answered {
                Ok(Ok(response)) => recording.front.tell_limited(asked, response),
                Err(late) => refuse(&recording.front.metrics, asked, late),
            };
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

impl tower::Service<Request<Incoming>> for Methods {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let routes = Arc::clone(&self.0);
        let Some(&arrival) = request.extensions().get::<Arrival>() else {
            return refused(&routes.metrics, Asked::of(&request), Refusal::Internal);
        };
        let asked = arrival.asked;
        match asked.target {
            Target::Rpc(Rpc::WatchMarkReadEvents) => Box::pin(async move {
                let answered = routes.method(arrival, request).await;
                let lasting = answered.map(|answer| UntilDrain::wrap(answer, &routes.lifecycle));
                Ok(routes.told(asked, lasting))
            }),
            Target::Rpc(_) => Box::pin(async move {
                let answered = routes.method(arrival, request).await;
                Ok(routes.told(asked, answered))
            }),
            Target::MarkReadJson => Box::pin(async move {
                let answered = routes.mark_read_json(arrival, request).await;
                Ok(routes.told(asked, answered))
            }),
            Target::ReflectionV1 => {
                Box::pin(async move { Ok(routes.stream(&routes.reflection_v1, request).await) })
            }
            Target::ReflectionV1Alpha => {
                Box::pin(
                    async move { Ok(routes.stream(&routes.reflection_v1alpha, request).await) },
                )
            }
            Target::Unknown => refused(&routes.metrics, asked, Refusal::Unknown),
            Target::WrongHttpMethod => refused(&routes.metrics, asked, Refusal::WrongHttpMethod),
            Target::WrongContentType => {
                refused(&routes.metrics, asked, Refusal::WrongContentType { takes: GRPC })
            }
            // The edge answers it in front of the guard.
            Target::Health => refused(&routes.metrics, asked, Refusal::Internal),
        }
    }
}

/// What is refused before there is anything to wait for.
fn refused(metrics: &Arc<Metrics>, asked: Asked, refusal: Refusal) -> Answering {
    let metrics = Arc::clone(metrics);
    Box::pin(async move { Ok(refuse(&metrics, asked, refusal)) })
}

impl Routes {
    fn told(&self, asked: Asked, answered: Result<Response<Body>, Refusal>) -> Response<Body> {
        answered.unwrap_or_else(|refusal| refuse(&self.metrics, asked, refusal))
    }

    async fn method(
        &self,
        Arrival { peer, deadline, traceparent, .. }: Arrival,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let presented = Presented {
            headers: request.headers(),
            security: peer.security,
            signed: None,
            deadline,
        };
        let Proof { reader, until, .. } = self.identity.authenticate(&presented).await?;
        // A timer looks at the call before the time: one that is late already must not begin.
        if deadline.has_passed(Duration::ZERO) {
            return Err(Refusal::DeadlineExceeded);
        }
        request.extensions_mut().insert(Call { reader, until, deadline, traceparent });
        // It is always ready.
        let Ok(response) = self.methods.clone().call(request.map(OneMessage::new)).await;
        message_problem(&response).map_or(Ok(response), Err)
    }

    async fn mark_read_json(
        &self,
        Arrival { peer, deadline, traceparent, .. }: Arrival,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let security = peer.security;
        let form = Form::read(&head, body).await?;
        let signed = Some(Signed { head: &head, form: &form, scheme: security.scheme() });
        let presented = Presented { headers: &head.headers, security, signed, deadline };
        let proof = self.identity.authenticate(&presented).await?;
        if let Some(nonce) = proof.nonce {
            self.service.use_nonce(nonce, deadline).await?;
        }
        Ok(crate::http::mark_read(&self.service, proof.reader, &form, deadline, traceparent).await)
    }

    async fn stream(&self, service: &BoxService, request: Request<Incoming>) -> Response<Body> {
        let Ok(response) = service.clone().oneshot(request).await;
        UntilDrain::wrap(response, &self.lifecycle)
    }
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
