//! The client for Rust services.
//!
//! [`MarkReadServiceClient`] is the generated client; with [`crate::proto`] a service needs no `build.rs`
//! of its own. [`connect`] creates one that sends credentials.

use std::fmt;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::domain::UserId;
pub use crate::proto::mark_read_service_client::MarkReadServiceClient;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time of a call: longer than a server waits for its store.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which the server is pinged, and then the longest wait for its answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A client that sends credentials.
pub type Client = MarkReadServiceClient<InterceptedService<Channel, Credentials>>;

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `http://` or `https://`, host and port.
    pub address: Uri,
    /// Credentials that are sent with every call.
    pub credentials: Credentials,
    /// CAs of the server's certificate, PEM; `None` is the system's.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate chain and private key, PEM.
    pub certificate: Option<(Vec<u8>, PrivateKey)>,
}

/// The token contains characters that a header cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("contains no token: it must be visible ASCII characters")]
pub struct InvalidToken;

/// No client can be created from the settings.
#[derive(Debug, thiserror::Error)]
#[error("invalid TLS settings: {0}")]
pub struct ConnectError(#[from] tonic::transport::Error);

/// A private key, PEM.
#[derive(Clone)]
pub struct PrivateKey(pub Vec<u8>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Credentials of a caller.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `authorization`, marked as sensitive.
    authorization: Option<MetadataValue<Ascii>>,
    user: Option<UserId>,
}

impl Credentials {
    /// Creates credentials from a bearer token, and from the user that is sent as `x-user-id`: to a server
    /// with `--dev`, or by a trusted client.
    ///
    /// # Errors
    ///
    /// If the token cannot be sent in a header.
    pub fn new(token: Option<&str>, user: Option<UserId>) -> Result<Self, InvalidToken> {
        let authorization = token.map(|token| {
            let header = format!("Bearer {}", token.trim()).parse::<MetadataValue<Ascii>>();
            header.map(|mut header| {
                header.set_sensitive(true);
                header
            })
        });
        let authorization = authorization.transpose().map_err(|_| InvalidToken)?;
        Ok(Self { authorization, user })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        if let Some(user) = self.user {
            metadata.insert("x-user-id", user.get().into());
        }
        Ok(request)
    }
}

/// Creates a client. It connects with its first call, and again when it has to.
///
/// # Errors
///
/// If a certificate or a key is invalid.
pub fn connect(config: ClientConfig) -> Result<Client, ConnectError> {
    let ClientConfig { address, credentials, ca, certificate } = config;
    let endpoint = endpoint(address, ca, certificate, None)?
        // The timeout ends with an answer's head, so a watch may last.
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_INTERVAL);
    Ok(MarkReadServiceClient::with_interceptor(endpoint.connect_lazy(), credentials))
}

/// Creates an endpoint, with TLS for an `https://` address.
pub(crate) fn endpoint(
    address: Uri,
    ca: Option<Vec<u8>>,
    certificate: Option<(Vec<u8>, PrivateKey)>,
    server_name: Option<String>,
) -> Result<Endpoint, ConnectError> {
    let is_https = address.scheme_str() == Some("https");
    let endpoint = Endpoint::from(address).connect_timeout(CONNECT_TIMEOUT);
    if !is_https {
        return Ok(endpoint);
    }
    let mut tls = ClientTlsConfig::new();
    tls = match ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, PrivateKey(key))) = certificate {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    if let Some(server_name) = server_name {
        tls = tls.domain_name(server_name);
    }
    Ok(endpoint.tls_config(tls)?)
}
