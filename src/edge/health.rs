//! `grpc.health.v1.Health`. It is answered whatever else is refused, so that probes see a server that is
//! busy and not one that is gone; and so it has bounds of its own.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio_stream::Stream;
use tonic::{Code, Status};
use tonic_health::pb::health_server::Health as _;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthService, WatchStream};

use super::answer::Body;
use super::grpc;
use super::guard::{EdgeRate, Guard};
use super::request_bytes::RequestBytes;
use super::routing::HealthMethod;
use super::unidentified::{ConnectionStreams, HealthWatch, UnidentifiedStreams};
use crate::domain::Refusal;
use crate::net::body::RequestBody;
use crate::net::peer::Peer;
use crate::proto::mark_read_service_server::SERVICE_NAME;
use crate::telemetry::metrics::{self, Bound};

/// Health calls that a peer may make. A prober makes one in some seconds; a proxy may bring the clients of
/// a whole fleet, who each open one watch when they connect.
const RATE: EdgeRate = EdgeRate { rate: 1000, burst: 2000 };

/// Largest request, in bytes: the name of a service.
pub(super) const MESSAGE_MAX_BYTES: usize = 4 * 1024;

/// The services whose health is known.
const SERVICES: [&str; 2] = ["", SERVICE_NAME];

/// Serves Health.
pub(super) struct Health {
    service: Arc<HealthService>,
    guard: Option<Guard>,
}

impl Health {
    pub(super) fn new(service: HealthService) -> Self {
        Self { service: Arc::new(service), guard: Guard::new(RATE) }
    }

    /// Counts a call of a peer.
    pub(super) fn admit(&self, peer: Peer) -> Result<(), Refusal> {
        let Some(guard) = &self.guard else { return Ok(()) };
        guard.check(peer.address).map_err(|wait| {
            metrics::count_refused(Bound::HealthRate);
            Refusal::EdgeLimited(wait)
        })
    }

    /// Reads a request and answers it.
    pub(super) async fn serve(
        &self,
        method: HealthMethod,
        request: Request<RequestBody>,
        connection: &Arc<ConnectionStreams>,
        request_bytes: &RequestBytes,
        unidentified: &UnidentifiedStreams,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let body = grpc::one_message(&head.headers, body, MESSAGE_MAX_BYTES, request_bytes.begin());
        let mut body = pin!(body.collect());
        let collected = match poll_fn(|cx| Poll::Ready(body.as_mut().poll(cx))).await {
            Poll::Ready(collected) => collected,
            // It is incomplete: one of a few. The call timeout bounds how long.
            Poll::Pending => {
                let _stream = unidentified.enter(connection)?;
                body.await
            }
        };
        let message = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return Err(grpc::read_problem(error)),
        };
        // tonic decodes it again, which cannot fail then: its refusals have no details.
        let payload = grpc::payload(&message, MESSAGE_MAX_BYTES)?;
        HealthCheckRequest::decode(payload).map_err(|_| Refusal::MalformedMessage)?;
        let request = Request::new(Full::new(message));
        let response = match method {
            HealthMethod::Check => {
                grpc::server(MESSAGE_MAX_BYTES)
                    .unary(grpc::Handler::new(|message| self.check(message)), request)
                    .await
            }
            HealthMethod::Watch => {
                let watch = |message| self.watch(message, connection);
                grpc::server(MESSAGE_MAX_BYTES)
                    .server_streaming(grpc::Handler::new(watch), request)
                    .await
            }
        };
        Ok(response.map(Body::from))
    }

    async fn check(
        &self,
        message: HealthCheckRequest,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.service.check(tonic::Request::new(message)).await
    }

    async fn watch(
        &self,
        message: HealthCheckRequest,
        connection: &Arc<ConnectionStreams>,
    ) -> Result<tonic::Response<OnlyWatch>, Status> {
        let index = SERVICES.iter().position(|name| *name == message.service);
        let opened = self.service.watch(tonic::Request::new(message)).await?;
        let index = index.and_then(|index| u8::try_from(index).ok());
        let watch = index.and_then(|index| HealthWatch::take(connection, index));
        let Some(watch) = watch else {
            metrics::count_refused(Bound::UnidentifiedStreams);
            // Clients read this code as "no health checking" (gRFC A17), and call all the same.
            return Err(Status::new(
                Code::Unimplemented,
                "this connection watches the service's health already",
            ));
        };
        Ok(opened.map(|updates| OnlyWatch { updates, _watch: watch }))
    }
}

/// The only watch of a service on its connection. It is kept however silent it is: gRPC clients hold one
/// for each connection.
struct OnlyWatch {
    updates: WatchStream,
    _watch: HealthWatch,
}

impl Stream for OnlyWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.updates).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use tonic_health::server::HealthReporter;

    use super::*;
    use crate::net::peer::ClientAuth;

    #[tokio::test]
    async fn a_peer_makes_health_calls_at_a_rate() {
        let health = Health::new(HealthService::from_health_reporter(HealthReporter::new()));
        let [peer, other] = ["192.0.2.1", "192.0.2.2"].map(|address| Peer {
            address: address.parse().unwrap(),
            client_auth: ClientAuth::Plaintext,
        });
        let served = (0..10_000).take_while(|_| health.admit(peer).is_ok()).count();
        assert!((2000..9000).contains(&served), "{served}");
        assert!(matches!(health.admit(peer), Err(Refusal::EdgeLimited(_))));
        assert_eq!(health.admit(other), Ok(()));
    }
}
