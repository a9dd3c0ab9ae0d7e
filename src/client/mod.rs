//! A client, as a Rust service uses it, and as `markread mark` and `markread state` do.
//!
//! [`MarkReadServiceClient`] is the generated client: with [`crate::proto`] a service needs no
//! `build.rs` of its own. [`connect`] makes one that says who it is.

use std::fmt;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::domain::UserId;
pub use crate::proto::mark_read_service_client::MarkReadServiceClient;

/// How long it may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take: longer than a server waits for its store.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may be silent until it is pinged, and then until it is taken for gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A client that says who it is.
pub type Client = MarkReadServiceClient<InterceptedService<Channel, Credentials>>;

/// Where a server is, and who calls it.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `http://` or `https://`, host and port.
    pub address: Uri,
    /// What a caller sends of itself.
    pub credentials: Credentials,
    /// Whom it trusts over https: the CAs in this PEM text, or the system's.
    pub ca: Option<Vec<u8>>,
    /// Its own certificate and private key, PEM, where it has one.
    pub certificate: Option<(Vec<u8>, PrivateKey)>,
}

/// A private key, PEM.
#[derive(Clone)]
pub struct PrivateKey(pub Vec<u8>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// What a caller sends of itself with every call.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `authorization`, which is marked as a secret.
    authorization: Option<MetadataValue<Ascii>>,
    user: Option<UserId>,
}

impl Credentials {
    /// A bearer token, and whom a trusted client or one of `serve --dev` calls for.
    ///
    /// # Errors
    ///
    /// What is wrong with the token, as the end of a sentence.
    pub fn new(token: Option<&str>, user: Option<UserId>) -> Result<Self, &'static str> {
        let authorization = token.map(|token| {
            let header = format!("Bearer {}", token.trim()).parse::<MetadataValue<Ascii>>();
            header.map(|mut header| {
                header.set_sensitive(true);
                header
            })
        });
        let authorization = authorization.transpose().map_err(|_| "holds no token")?;
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

/// A client of the server there. It connects with its first call, and again when it has to.
///
/// # Errors
///
/// Where a certificate or a key is none.
pub fn connect(config: ClientConfig) -> Result<Client, tonic::transport::Error> {
    let ClientConfig { address, credentials, ca, certificate } = config;
    let endpoint = endpoint(address, ca, certificate, None)?
        // It bounds the time to an answer's head: a watch lasts.
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_INTERVAL);
    Ok(MarkReadServiceClient::with_interceptor(endpoint.connect_lazy(), credentials))
}

/// Where to connect to, and over https, whom to trust there and as whom.
pub(crate) fn endpoint(
    address: Uri,
    ca: Option<Vec<u8>>,
    certificate: Option<(Vec<u8>, PrivateKey)>,
    server_name: Option<String>,
) -> Result<Endpoint, tonic::transport::Error> {
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
    endpoint.tls_config(tls)
}
