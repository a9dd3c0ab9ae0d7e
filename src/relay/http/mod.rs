//! Receivers that speak HTTP/1.1, most of them over TLS.

mod addresses;
mod check;
mod connector;
mod failure;
mod metered;
pub(super) mod proxy;
mod resolver;
pub(super) mod response;
mod socket;
pub(super) mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use self::connector::Connector;
use self::proxy::Proxy;
use self::response::Response;
use self::target::Target;
use super::receiver::{Attempt, Check, Delivery, Failure, FailureKind, Receiver};
use super::signature::Secrets;
use super::webhook::Targets;

/// Time of an attempt, from its begin to the end of the response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest body of a response to a delivery, in bytes. Nothing in it is used.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// Largest head of a response, in bytes and in header fields.
const HEAD_MAX_BYTES: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;

/// How long a connection without a request is kept: less than the 5 s after which common receivers close it
/// (Node.js, uvicorn, Apache), so that a request does not meet a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

const TWITTER_SIGNATURE: HeaderName = HeaderName::from_static("x-twitter-webhooks-signature");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("markread/", env!("CARGO_PKG_VERSION")));

/// Where a webhook sends to, and how it connects.
#[derive(Clone, Copy, Default)]
pub(super) struct HttpSettings<'a> {
    pub url: &'a str,
    pub proxy: Option<&'a str>,
    /// PEM texts.
    pub ca: Option<&'a [u8]>,
    pub identity: Option<(&'a [u8], &'a [u8])>,
}

/// Sends to one webhook over HTTP/1.1, with a pool of connections of its own.
pub(super) struct HttpReceiver {
    target: Target,
    secrets: Secrets,
    client: Client<Connector, Full<Bytes>>,
    /// Headers of every request.
    headers: HeaderMap,
}

impl HttpReceiver {
    /// Creates it. Nothing is connected to yet.
    ///
    /// # Errors
    ///
    /// The member of the file that is wrong, and the problem.
    pub(super) fn new(
        settings: HttpSettings<'_>,
        secrets: Secrets,
        targets: Targets,
    ) -> Result<Self, (&'static str, String)> {
        let target = Target::parse(settings.url, targets).map_err(|problem| ("url", problem))?;
        let proxy = settings.proxy.map(Proxy::parse).transpose();
        let proxy = proxy.map_err(|problem| ("proxy", problem))?;
        let tls = tls::client_config(settings.ca, settings.identity)?;
        let mut headers = HeaderMap::from_iter([(USER_AGENT, AGENT)]);
        if let Some(authorization) = proxy.as_ref().and_then(|proxy| proxy.authorization.clone())
            && !target.is_https
        {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        let connector = Connector::new(&target, tls, proxy, targets.allow_private);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .http1_max_headers(HEADERS_MAX)
            // Only if nothing of the request was sent, as on a connection that was found closed.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self { target, secrets, client, headers })
    }

    /// Returns the URL in its one spelling.
    pub(super) fn url(&self) -> &str {
        self.target.as_str()
    }

    fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    fn post(&self, delivery: &Delivery) -> Request<Full<Bytes>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (id, body) = (delivery.id.to_string(), &delivery.body);
        let standard = self.secrets.standard(&id, now, body);
        let mut request = self.request(Method::POST, self.target.uri.clone(), body.clone());
        let headers = request.headers_mut();
        for (name, value) in [
            (TWITTER_SIGNATURE, self.secrets.twitter(body)),
            (WEBHOOK_SIGNATURE, standard),
            (WEBHOOK_ID, id),
        ] {
            // Numbers and base64 are values of headers.
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
                headers.insert(name, value);
            }
        }
        headers.insert(WEBHOOK_TIMESTAMP, now.into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }
}

#[async_trait::async_trait]
impl Receiver for HttpReceiver {
    async fn deliver(&self, delivery: &Delivery) -> Attempt {
        let deadline = Instant::now() + ATTEMPT_TIMEOUT;
        match response::send(&self.client, || self.post(delivery), deadline).await {
            Ok(response) => attempt(response.discard_body(BODY_MAX_BYTES, deadline).await),
            Err(failure) => Attempt::Failed(failure),
        }
    }

    async fn check(&self) -> Check {
        self.check_crc().await
    }
}

/// Returns the result of an attempt that was answered; `body` is what went wrong with the response's body.
fn attempt((response, body): (Response, Result<(), Failure>)) -> Attempt {
    let status = response.status.as_u16();
    let kind = match response.status {
        code if code.is_success() => {
            return match body {
                Ok(()) => Attempt::Delivered(status),
                Err(failure) => Attempt::Failed(Failure { status: Some(status), ..failure }),
            };
        }
        StatusCode::GONE => return Attempt::Gone,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            FailureKind::Throttled
        }
        _ => FailureKind::Status,
    };
    let is_redirect = response.status.is_redirection();
    let note = if is_redirect { ": redirects are not followed" } else { "" };
    Attempt::Failed(Failure {
        kind,
        status: Some(status),
        detail: format!("answered {status}{note}"),
        retry_after: response.retry_after,
    })
}

impl fmt::Debug for HttpReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpReceiver").field("target", &self.target).finish_non_exhaustive()
    }
}
