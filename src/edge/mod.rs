//! The front door. Every request passes, in this order (`docs/contract.md`, "Answers"): draining, edge
//! guard, routing, identity, the reader's concurrency; then its method in [`grpc`] or [`http`].

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Method, Request, Response};
use tonic_health::server::HealthService;

use self::answer::{Answer, Body, MarkOutcomes};
use self::arrival::{Arrival, Caller};
use self::call::{CallFuture, NewCall};
use self::deadline::Deadline;
use self::guard::{EdgeRate, Guard};
use self::health::Health;
use self::places::Place;
use self::reflection::Reflection;
pub use self::reflection::ReflectionAccess;
use self::request_bytes::RequestBytes;
use self::routing::{HealthMethod, ReflectionVersion, Route, Target};
use self::trace::CallTrace;
use self::unidentified::{ConnectionStreams, UnidentifiedStreams};
use self::until_drain::UntilDrain;
use crate::domain::{Nonce, Refusal};
use crate::identity::oauth1::SignedRequest;
use crate::identity::{Authenticated, Credentials, Identity};
use crate::net::body::RequestBody;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::peer::Peer;
use crate::net::pressure::{MemoryPressure, Pressure};
use crate::proto::Rpc;
use crate::service::Service;
use crate::service::readers::Readers;
use crate::telemetry::metrics::{self, Bound, Metrics};

pub mod answer;
pub mod arrival;
mod call;
pub mod deadline;
pub mod grpc;
pub mod guard;
mod health;
pub mod http;
mod places;
mod reflection;
pub mod request_bytes;
pub mod routing;
pub mod trace;
mod unidentified;
mod until_drain;

/// Settings of an [`Edge`].
#[derive(Debug)]
pub struct EdgeConfig {
    /// Bounds every unary call.
    pub call_timeout: Duration,
    /// Calls that a peer may make; `None` turns the guard off.
    pub edge_rate: Option<EdgeRate>,
    /// How callers authenticate.
    pub identity: Identity,
    /// Who may use server reflection.
    pub reflection: ReflectionAccess,
    /// Unary calls of a reader under way at the same time; `None` is any number.
    pub reader_concurrency: Option<u32>,
}

/// Serves the requests of the gRPC port.
pub struct Edge {
    call_timeout: Duration,
    guard: Option<Guard>,
    identity: Identity,
    service: Arc<Service>,
    readers: Option<Arc<Readers>>,
    health: Health,
    reflection: Reflection,
    unidentified: UnidentifiedStreams,
    request_bytes: RequestBytes,
    lifecycle: Lifecycle,
    pressure: MemoryPressure,
    metrics: Arc<Metrics>,
}

impl Edge {
    /// Creates an edge in front of a service.
    ///
    /// # Errors
    ///
    /// If the descriptors for reflection are invalid.
    pub fn new(
        config: EdgeConfig,
        service: Arc<Service>,
        health: HealthService,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let EdgeConfig { call_timeout, edge_rate, identity, reflection, reader_concurrency } =
            config;
        Ok(Self {
            call_timeout,
            guard: edge_rate.and_then(Guard::new),
            identity,
            service,
            readers: reader_concurrency.map(Readers::new),
            health: Health::new(health),
            reflection: Reflection::new(reflection)?,
            unidentified: UnidentifiedStreams::default(),
            request_bytes: RequestBytes::new(None),
            lifecycle,
            pressure: MemoryPressure::default(),
            metrics,
        })
    }

    /// Refuses calls under memory pressure, and lets incomplete requests use a share of the limit.
    #[must_use]
    pub fn with_memory(self, pressure: MemoryPressure, limit: Option<u64>) -> Self {
        Self { pressure, request_bytes: RequestBytes::new(limit), ..self }
    }

    /// Returns the service of one connection.
    pub fn for_peer(self: &Arc<Self>, peer: Peer) -> PeerService {
        PeerService { edge: Arc::clone(self), peer, streams: Arc::default() }
    }

    /// Refuses a request early, or starts its method.
    fn start(
        self: &Arc<Self>,
        call: NewCall,
        streams: &Arc<ConnectionStreams>,
        request: Request<RequestBody>,
    ) -> CallFuture {
        let arrival = call.arrival;
        let Arrival { peer, route, .. } = arrival;
        let admitted = match route.target {
            Target::Health(_) => self.health.admit(peer),
            _ => self.admit(peer),
        };
        if let Err(refusal) = admitted {
            return call.run(ready(Answer::refused(route, refusal)));
        }
        let edge = Arc::clone(self);
        let refusal = match route.target {
            Target::Rpc(rpc) => return call.run(edge.rpc(rpc, arrival, request)),
            Target::Health(method) => {
                let streams = Arc::clone(streams);
                return call.run(async move { edge.health(method, route, streams, request).await });
            }
            Target::MarkReadJson => {
                return call.run(async move { edge.mark_read_json(arrival, request).await });
            }
            Target::Reflection(version) => {
                let streams = Arc::clone(streams);
                return call.run(async move {
                    let response = edge.reflection(version, &arrival, &streams, request).await;
                    response.map_or_else(|refusal| Answer::refused(route, refusal), Answer::new)
                });
            }
            Target::Unknown => Refusal::Unknown,
            Target::WrongHttpMethod => Refusal::WrongHttpMethod,
            Target::WrongContentType => Refusal::WrongContentType { accepts: grpc::CONTENT_TYPE },
        };
        call.run(ready(Answer::refused(route, refusal)))
    }

    /// Refuses a peer's call while draining, under memory pressure, or if the peer makes too many. Health is
    /// answered all the same.
    fn admit(&self, peer: Peer) -> Result<(), Refusal> {
        if self.lifecycle.phase() == Phase::Draining {
            return Err(Refusal::Draining);
        }
        if self.pressure.now() >= Pressure::High {
            metrics::count_refused(Bound::Memory);
            return Err(Refusal::Overloaded);
        }
        let Some(guard) = &self.guard else { return Ok(()) };
        guard.check(peer.address).map_err(|wait| {
            self.metrics.count_edge_limited();
            Refusal::EdgeLimited(wait)
        })
    }

    async fn rpc(
        self: Arc<Self>,
        rpc: Rpc,
        arrival: Arrival,
        request: Request<RequestBody>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let caller = match self.authenticate(&arrival, &head.headers).await {
            Ok(caller) => caller,
            Err(refusal) => return Answer::refused(arrival.route, refusal),
        };
        let light = matches!(rpc, Rpc::MarkRead | Rpc::GetReadState);
        let place = || self.place(rpc, caller.reader, arrival.deadline.server);
        // A light call takes its place when its message is complete, which is small; another before.
        let heavy = match if light { Ok(Place::None) } else { place().await } {
            Ok(place) => place,
            Err(refusal) => return Answer::refused(arrival.route, refusal),
        };
        let memory = self.request_bytes.begin();
        let body = grpc::one_message(&head.headers, body, grpc::MESSAGE_MAX_BYTES, memory);
        // A call whose message is still to come holds no metadata.
        drop(head);
        let (service, arrival) = (&self.service, &arrival);
        let mut marks = MarkOutcomes::None;
        // Those of heavy calls are boxed, since the future is as large as the largest.
        let answered = match rpc {
            Rpc::MarkRead => {
                grpc::unary(body, async |message| {
                    let _place = place().await.inspect_err(|refusal| {
                        marks = MarkOutcomes::One(answer::table::row(refusal).outcome);
                    })?;
                    grpc::marks::mark_read(service, arrival, caller, message, &mut marks).await
                })
                .await
            }
            Rpc::GetReadState => {
                grpc::unary(body, async |message| {
                    let _place = place().await?;
                    grpc::reads::get_read_state(service, arrival, caller, message).await
                })
                .await
            }
            Rpc::BatchMarkRead => {
                Box::pin(grpc::unary(body, |message| {
                    grpc::marks::batch_mark_read(service, arrival, caller, message, &mut marks)
                }))
                .await
            }
            Rpc::BatchGetReadStates => {
                Box::pin(grpc::unary(body, |message| {
                    grpc::reads::batch_get_read_states(service, arrival, caller, message)
                }))
                .await
            }
            Rpc::ListReadCursors => {
                Box::pin(grpc::unary(body, |message| {
                    grpc::reads::list_read_cursors(service, arrival, caller, message)
                }))
                .await
            }
            Rpc::WatchMarkReadEvents => {
                let watch = Box::pin(grpc::streaming(body, |message| {
                    grpc::watch::watch(service, arrival, caller, heavy, message)
                }));
                watch.await.map(|watch| UntilDrain::wrap(watch, &self.lifecycle))
            }
        };
        match answered {
            Ok(response) => Answer { response, marks },
            Err(problem) => {
                // The reader's concurrency comes first here too.
                let busy = self.check_queue(rpc, caller.reader).err();
                Answer::refused(arrival.route, busy.unwrap_or(problem))
            }
        }
    }

    /// Authenticates the caller of an RPC, before its message is read.
    async fn authenticate(
        &self,
        arrival: &Arrival,
        headers: &HeaderMap,
    ) -> Result<Caller, Refusal> {
        let deadline = arrival.deadline;
        let client_auth = arrival.peer.client_auth;
        let credentials =
            Credentials { headers, client_auth, signed: None, deadline: deadline.server };
        let Authenticated { reader, expires_at, .. } =
            self.identity.authenticate(&credentials).await?;
        // The timer is polled after the method: a call that is late must not begin.
        if deadline.has_passed(Duration::ZERO) {
            return Err(Refusal::DeadlineExceeded);
        }
        Ok(Caller { reader, expires_at })
    }

    async fn mark_read_json(&self, arrival: Arrival, request: Request<RequestBody>) -> Answer {
        match self.authenticate_form(&arrival, request).await {
            Ok((caller, nonce, form)) => {
                match self.place(Rpc::MarkRead, caller.reader, arrival.deadline.server).await {
                    Ok(_place) => {
                        http::mark_read(&self.service, &arrival, caller, nonce, &form).await
                    }
                    Err(refusal) => Answer::refused(arrival.route, refusal),
                }
            }
            Err(refusal) => Answer::refused(arrival.route, refusal),
        }
    }

    /// Reads the parameters of a plain HTTP request and authenticates the caller: a signature covers the
    /// parameters. Returns the nonce of the signature too, which is not used up yet.
    async fn authenticate_form(
        &self,
        arrival: &Arrival,
        request: Request<RequestBody>,
    ) -> Result<(Caller, Option<Nonce>, http::Form), Refusal> {
        let client_auth = arrival.peer.client_auth;
        let deadline = arrival.deadline.server;
        let (head, body) = request.into_parts();
        let form = http::Form::read(&head, body, self.request_bytes.begin()).await?;
        let scheme = client_auth.scheme();
        let signed =
            Some(SignedRequest { head: &head, query: &form.query, body: &form.body, scheme });
        let credentials = Credentials { headers: &head.headers, client_auth, signed, deadline };
        let Authenticated { reader, nonce, expires_at } =
            self.identity.authenticate(&credentials).await?;
        Ok((Caller { reader, expires_at }, nonce, form))
    }

    async fn health(
        &self,
        method: HealthMethod,
        route: Route,
        streams: Arc<ConnectionStreams>,
        request: Request<RequestBody>,
    ) -> Answer {
        let Self { health, request_bytes, unidentified, lifecycle, .. } = self;
        match health.serve(method, request, &streams, request_bytes, unidentified).await {
            Ok(response) => Answer::new(UntilDrain::wrap(response, lifecycle)),
            Err(refusal) => Answer::refused(route, refusal),
        }
    }

    async fn reflection(
        &self,
        version: ReflectionVersion,
        arrival: &Arrival,
        streams: &Arc<ConnectionStreams>,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, Refusal> {
        if self.reflection.access == ReflectionAccess::Authenticated {
            self.authenticate(arrival, request.headers()).await?;
        }
        let stream = self.unidentified.enter(streams)?;
        let response = self.reflection.serve(version, request, stream, &self.request_bytes);
        Ok(UntilDrain::wrap(response, &self.lifecycle))
    }
}

/// The service of one connection.
#[derive(Clone)]
pub struct PeerService {
    edge: Arc<Edge>,
    peer: Peer,
    streams: Arc<ConnectionStreams>,
}

impl hyper::service::Service<Request<RequestBody>> for PeerService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CallFuture;

    fn call(&self, request: Request<RequestBody>) -> CallFuture {
        let Self { edge, peer, streams } = self;
        let began = Instant::now();
        let route = Route::new(&request, edge.reflection.access);
        let is_head = request.method() == Method::HEAD;
        let deadline =
            Deadline::new(began.into(), route.protocol, request.headers(), edge.call_timeout);
        let trace = CallTrace::new(route, &request, &peer.client_auth.scheme());
        let arrival = Arrival { peer: *peer, route, deadline, traceparent: trace.traceparent };
        let metrics = Arc::clone(&edge.metrics);
        edge.start(NewCall { arrival, began, is_head, trace, metrics }, streams, request)
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerService").field("peer", &self.peer).finish_non_exhaustive()
    }
}
