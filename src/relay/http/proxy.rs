//! Proxies between the relay and receivers.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::{self, Upgraded};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::connector::Stream;
use super::failure::{ConnectError, failure_of};
use super::metered::Metered;
use super::resolver::Resolver;
use super::target::{Endpoint, parse_url};
use super::tls::proxy_config;
use super::{HEAD_MAX_BYTES, HEADERS_MAX};
use crate::relay::receiver::FailureKind;

/// A proxy. Its address is the operator's choice, and is not checked.
pub(in crate::relay) struct Proxy {
    pub(super) endpoint: Endpoint,
    pub(super) resolver: Resolver,
    /// For an `https://` proxy.
    pub tls: Option<Arc<ClientConfig>>,
    /// Value of `proxy-authorization`.
    pub authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Parses the URL of a proxy, which may have a user and a password.
    ///
    /// # Errors
    ///
    /// What is wrong with it, after the member's name. The URL is not quoted: it may contain a password.
    pub(in crate::relay) fn parse(text: &str) -> Result<Self, String> {
        let url = parse_url(text, &["http", "https"])?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("must have nothing after the host and the port".to_owned());
        }
        let endpoint = Endpoint::of(&url)?;
        let mut authorization = None;
        if url.username() != "" || url.password().is_some() {
            let user = percent_decode_str(url.username()).collect::<Vec<u8>>();
            let password = percent_decode_str(url.password().unwrap_or_default()).collect();
            let credentials = BASE64_STANDARD.encode([user, password].join(&b':'));
            let value = HeaderValue::try_from(format!("Basic {credentials}"));
            let mut value = value.map_err(|_| "must have a shorter user and password")?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        Ok(Self {
            resolver: Resolver::new(endpoint.clone(), true),
            endpoint,
            tls: (url.scheme() == "https").then(|| Arc::new(proxy_config())),
            authorization,
        })
    }

    /// Asks the proxy, on a connection to it, for a tunnel to a target.
    pub(super) async fn tunnel(
        &self,
        stream: Box<dyn Stream>,
        to: &Endpoint,
    ) -> Result<TokioIo<Upgraded>, ConnectError> {
        let failed = |error: hyper::Error| {
            let failure = failure_of(&error);
            ConnectError::new(failure.kind, format!("the proxy: {}", failure.detail))
        };
        let authority = format!("{}:{}", to.host, to.port);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        let refused = |detail| ConnectError::new(FailureKind::Connection, detail);
        let invalid = || refused("the proxy cannot be asked for this host".to_owned());
        *request.uri_mut() = authority.parse().map_err(|_| invalid())?;
        let host = HeaderValue::try_from(authority).map_err(|_| invalid())?;
        request.headers_mut().insert(HOST, host);
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let stream = Metered::new(stream);
        let budget = stream.budget();
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX_BYTES)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // It ends with the attempt, or when it has handed the stream over.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
        let response = sender.send_request(request).await.map_err(failed)?;
        match response.status() {
            status if status.is_success() => {
                budget.lift();
                upgrade::on(response).await.map(TokioIo::new).map_err(failed)
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(refused("the proxy answered 407: it wants another user or password".to_owned()))
            }
            status => Err(refused(format!("the proxy answered {}", status.as_u16()))),
        }
    }
}
