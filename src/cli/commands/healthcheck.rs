//! `markread healthcheck`: readiness for images without a shell.

use std::time::Duration;

use tonic::transport::Uri;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::failure;
use crate::client::endpoint;

/// Longest time for the connection, and for the call.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of the command.
#[derive(Clone, Debug)]
pub struct HealthcheckConfig {
    /// `http://` or `https://`, host and port.
    pub address: Uri,
    /// CAs of the server's certificate, PEM; `None` is the system's.
    pub ca: Option<Vec<u8>>,
    /// Name in the server's certificate; `None` is the address's host.
    pub server_name: Option<String>,
}

/// Checks that the server is serving.
///
/// # Errors
///
/// The problem, in one line.
pub(crate) async fn healthcheck(config: HealthcheckConfig) -> Result<(), String> {
    let HealthcheckConfig { address, ca, server_name } = config;
    let endpoint = endpoint(address, ca, None, server_name);
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
    let checked = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    match checked.map_err(|status| failure(&status))?.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("the server is {}", other.as_str_name())),
    }
}
