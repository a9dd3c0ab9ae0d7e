//! Sends OTLP over plain HTTP (`http/protobuf`), with the HTTP client that also fetches JWK sets.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::export::CollectorTls;
use crate::files::{certificates, private_key};

/// Largest answer of a collector, in bytes: it names the spans that it rejected.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// An HTTP client for the exporter, whose thread has no runtime: requests run on this one.
#[derive(Debug)]
pub(super) struct OtlpHttp {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    runtime: Handle,
}

impl OtlpHttp {
    /// Creates it. Needs a runtime.
    ///
    /// # Errors
    ///
    /// If the TLS settings are invalid.
    pub(super) fn new(tls: Option<CollectorTls>, timeout: Duration) -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(client_config(tls)?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, timeout, runtime: Handle::current() })
    }
}

#[async_trait]
impl HttpClient for OtlpHttp {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, limit) = (self.client.clone(), self.timeout);
        let answer = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(head, body.to_bytes()))
        };
        // The timer needs the runtime too.
        self.runtime.spawn(async move { timeout(limit, answer).await }).await??
    }
}

fn client_config(tls: Option<CollectorTls>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    // Without TLS settings the URL is http://, and nothing is verified.
    let Some(CollectorTls { ca, certificate }) = tls else {
        let config = ClientConfig::builder().with_root_certificates(roots);
        return Ok(config.with_no_client_auth());
    };
    match ca {
        Some(ca) => roots.add_parsable_certificates(certificates(&ca).unwrap_or_default()),
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    let config = ClientConfig::builder().with_root_certificates(roots);
    let Some((chain, key)) = certificate else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(&chain).unwrap_or_default();
    config.with_client_auth_cert(chain, private_key(&key)?).map_err(|error| error.to_string())
}
