//! What answers the requests of a connection.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::service::Service;

use super::body::{BodyError, RequestBody};

/// A service of hyper's, with the bounds that a connection needs.
pub trait HttpService: Send + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<BodyError>> + Send + 'static;
    /// The service's error.
    type Error: Into<BodyError>;
    /// A call.
    type Future: Future<Output = Result<Response<Self::Body>, Self::Error>> + Send + 'static;

    /// Answers a request.
    fn call(&self, request: Request<RequestBody>) -> Self::Future;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BodyError>,
    B: Body<Data = Bytes, Error: Into<BodyError>> + Send + 'static,
{
    type Body = B;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<RequestBody>) -> S::Future {
        Service::call(self, request)
    }
}
