//! `markread healthcheck`: readiness for images without a shell.

use std::time::Duration;

use tonic::transport::Uri;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::ask::failure;
use crate::client::endpoint;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Which server is asked.
#[derive(Clone, Debug)]
pub struct HealthcheckConfig {
    /// `http://` or `https://`, host and port.
    pub address: Uri,
    /// Whom it trusts over https: the CAs in this PEM text, or the system's.
    pub ca: Option<Vec<u8>>,
    /// The name in the server's certificate, where it is not the address's host.
    pub server_name: Option<String>,
}

/// Asks whether the server is serving.
///
/// # Errors
///
/// Why it is not, in one line.
pub async fn healthcheck(config: HealthcheckConfig) -> Result<(), String> {
    let HealthcheckConfig { address, ca, server_name } = config;
    let endpoint = endpoint(address, ca, None, server_name);
    let endpoint = endpoint.map_err(|error| format!("no client can be made: {error}"))?;
    let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
    let checked = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    match checked.map_err(|status| failure(&status))?.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("the server is {}", other.as_str_name())),
    }
}
