//! What stands behind the guard: routing, identity, and the method itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt};

use super::Arrival;
use crate::edge::answer::{Body, Refusal};
use crate::edge::grpc::one_message::OneMessage;
use crate::edge::grpc::{self, Call, Grpc, MESSAGE_MAX_BYTES};
use crate::edge::http::form::Form;
use crate::edge::routing::{Asked, Target};
use crate::edge::until_drain::UntilDrain;
use crate::identity::oauth1::Signed;
use crate::identity::{Identity, Presented, Proof};
use crate::net::lifecycle::Lifecycle;
use crate::proto::Rpc;
use crate::service::Service;
use crate::telemetry::metrics::Metrics;

/// All methods. Clones share everything.
#[derive(Clone)]
pub(super) struct Methods(Arc<Routes>);

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

pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Methods {
    pub(super) fn new(
        identity: Identity,
        service: Arc<Service>,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        Ok(Self(Arc::new(Routes {
            identity,
            methods: Grpc::server(Arc::clone(&service)),
            service,
            reflection_v1: BoxService::new(
                reflection().build_v1()?.max_decoding_message_size(MESSAGE_MAX_BYTES),
            ),
            reflection_v1alpha: BoxService::new(
                reflection().build_v1alpha()?.max_decoding_message_size(MESSAGE_MAX_BYTES),
            ),
            lifecycle,
            metrics,
        })))
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
            Target::Rpc(rpc) => routes.method(rpc, arrival, request),
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
pub(super) fn refused(metrics: &Arc<Metrics>, asked: Asked, refusal: Refusal) -> Answering {
    let metrics = Arc::clone(metrics);
    Box::pin(async move { Ok(refuse(&metrics, asked, refusal)) })
}

impl Routes {
    fn told(&self, asked: Asked, answered: Result<Response<Body>, Refusal>) -> Response<Body> {
        answered.unwrap_or_else(|refusal| refuse(&self.metrics, asked, refusal))
    }

    /// Not an async function: that one would hold the request twice.
    fn method(
        self: Arc<Self>,
        rpc: Rpc,
        arrival: Arrival,
        mut request: Request<Incoming>,
    ) -> Answering {
        Box::pin(async move {
            let answered = match self.begin(&arrival, request.headers()).await {
                Ok(call) => {
                    request.extensions_mut().insert(call);
                    // It is always ready.
                    let answering = self.methods.clone().call(request.map(OneMessage::new));
                    let Ok(response) = answering.await;
                    message_problem(&response).map_or(Ok(response), Err)
                }
                Err(refusal) => Err(refusal),
            };
            let answered = match rpc {
                Rpc::WatchMarkReadEvents => {
                    answered.map(|watch| UntilDrain::wrap(watch, &self.lifecycle))
                }
                _ => answered,
            };
            Ok(self.told(arrival.asked, answered))
        })
    }

    /// Proves who calls, before the message is read.
    async fn begin(&self, arrival: &Arrival, headers: &HeaderMap) -> Result<Call, Refusal> {
        let &Arrival { peer, deadline, traceparent, .. } = arrival;
        let presented = Presented { headers, security: peer.security, signed: None, deadline };
        let Proof { reader, until, .. } = self.identity.authenticate(&presented).await?;
        // A timer looks at the call before the time: one that is late already must not begin.
        if deadline.has_passed(Duration::ZERO) {
            return Err(Refusal::DeadlineExceeded);
        }
        Ok(Call { reader, until, deadline, traceparent })
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
        Ok(crate::edge::http::mark_read(&self.service, proof.reader, &form, deadline, traceparent)
            .await)
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
pub(super) fn refuse(metrics: &Metrics, asked: Asked, refusal: Refusal) -> Response<Body> {
    if asked.is_mark() {
        metrics.count_mark_read(&Err(refusal.clone()));
    }
    asked.refuse(refusal)
}

/// What tonic finds wrong with a message, in the contract's terms. Its answers are told from ours by
/// the details, which only ours carry.
pub(super) fn message_problem(response: &Response<Body>) -> Option<Refusal> {
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
