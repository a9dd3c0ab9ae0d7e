//! Server reflection, in both versions: grpcurl uses v1, Postman, grpcui and evans v1alpha.
//!
//! A stream is asked for its next request only when the transport has taken the answer before: unread
//! answers of one stream are at most one, beside what the transport buffers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Full};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tonic_reflection::server::{Builder, Error};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::answer::Body;
use super::answer::grpc::status;
use super::grpc::{BodyError, WholeMessages, payload, read_problem};
use super::request_bytes::RequestBytes;
use super::routing::ReflectionVersion;
use super::unidentified::{Patience, UnidentifiedStream};
use crate::domain::Refusal;
use crate::net::body::RequestBody;
use crate::proto;
use crate::telemetry::metrics::{self, Bound};

/// Largest request message, in bytes: a name.
const MESSAGE_MAX_BYTES: usize = 4 * 1024;

const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Access to server reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReflectionAccess {
    /// Everyone.
    On,
    /// Nobody: its paths are unknown.
    Off,
    /// Callers with valid credentials.
    Authenticated,
}

/// Serves reflection.
pub(super) struct Reflection {
    pub(super) access: ReflectionAccess,
    v1: BoxService,
    v1alpha: BoxService,
}

type BoxService =
    BoxCloneSyncService<Request<Full<Bytes>>, Response<tonic::body::Body>, Infallible>;

impl Reflection {
    pub(super) fn new(access: ReflectionAccess) -> Result<Self, Error> {
        let v1 = BoxService::new(builder().build_v1()?);
        let v1alpha = BoxService::new(builder().build_v1alpha()?);
        Ok(Self { access, v1, v1alpha })
    }

    /// Opens a stream.
    pub(super) fn serve(
        &self,
        version: ReflectionVersion,
        request: Request<RequestBody>,
        stream: UnidentifiedStream,
        request_bytes: &RequestBytes,
    ) -> Response<Body> {
        let service = match version {
            ReflectionVersion::V1 => &self.v1,
            ReflectionVersion::V1Alpha => &self.v1alpha,
        };
        let path = request.uri().clone();
        let requests =
            WholeMessages::new(request.into_body(), MESSAGE_MAX_BYTES, request_bytes.begin());
        let answers = Answers {
            requests,
            service: service.clone(),
            path,
            answer: None,
            patience: stream.patience(),
            _stream: stream,
            ended: false,
        };
        let mut response = Response::new(Body::new(answers));
        response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
        response
    }
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl can print error details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Asks tonic's service a single request. Returns the answer with its head.
async fn ask(service: BoxService, path: Uri, message: Bytes) -> Result<Bytes, Status> {
    let mut request = Request::new(Full::new(message));
    (*request.method_mut(), *request.uri_mut()) = (Method::POST, path);
    request.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    let Ok(response) = service.oneshot(request).await;
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().unwrap_or(&head.headers);
    match Status::from_header_map(trailers) {
        Some(failed) if failed.code() != Code::Ok => Err(failed),
        _ => match collected.to_bytes() {
            // tonic-reflection ends the stream without a word.
            empty if empty.is_empty() => Err(status(Refusal::MalformedMessage)),
            answer => Ok(answer),
        },
    }
}

type AnswerFuture = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

pin_project! {
    /// The answers of one stream.
    struct Answers<B> {
        #[pin]
        requests: WholeMessages<B>,
        service: BoxService,
        path: Uri,
        answer: Option<AnswerFuture>,
        patience: Patience,
        _stream: UnidentifiedStream,
        ended: bool,
    }
}

impl<B> HttpBody for Answers<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let end = loop {
            if let Some(answer) = this.answer {
                let answer = ready!(answer.as_mut().poll(cx));
                *this.answer = None;
                this.patience.renew();
                match answer {
                    Ok(answer) => return Poll::Ready(Some(Ok(Frame::data(answer)))),
                    Err(status) => break status,
                }
            }
            match this.requests.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(refusal) = payload(&message, MESSAGE_MAX_BYTES) {
                        break status(refusal);
                    }
                    *this.answer =
                        Some(Box::pin(ask(this.service.clone(), this.path.clone(), message)));
                }
                Poll::Ready(Some(Err(error))) => {
                    break status(read_problem(error));
                }
                Poll::Ready(None) => break Status::ok(""),
                Poll::Pending => {
                    ready!(this.patience.poll_end(cx));
                    metrics::count_refused(Bound::UnidentifiedStreams);
                    break status(Refusal::RequestTimeout);
                }
            }
        };
        *this.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&end)))))
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails only if the message cannot be encoded, which cannot be.
    let _ = status.add_header(&mut trailers);
    trailers
}
