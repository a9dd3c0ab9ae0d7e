//! An operator's tools, without credentials: health checks, reflection, grpcurl.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::Server;
use crate::tools::tool;

const LIMIT: Duration = Duration::from_secs(20);

/// A client of the services for operators.
pub struct Operator(Channel);

impl Operator {
    /// A client of this server.
    pub fn new(server: &Server) -> Self {
        Self(server.channel())
    }

    /// Asks for the health of a service; an empty name is the whole server.
    pub async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.0.clone()).check(request).await?;
        Ok(answer.into_inner().status())
    }

    /// Follows the health of a service.
    pub async fn watch_health(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(self.0.clone()).watch(request).await.unwrap().into_inner()
    }

    /// Opens a reflection stream, and returns its requests and its answers.
    pub async fn open_reflection(
        &self,
    ) -> (Sender<ServerReflectionRequest>, Streaming<ServerReflectionResponse>) {
        let (sender, receiver) = channel(1);
        let mut client = ServerReflectionClient::new(self.0.clone());
        let answers = client.server_reflection_info(ReceiverStream::new(receiver)).await;
        (sender, answers.unwrap().into_inner())
    }
}

/// Runs grpcurl against a server: `flags` go before the address, `words` after it.
pub async fn grpcurl(server: &Server, flags: &[&str], words: &[&str]) -> Output {
    grpcurl_to(&server.address, &[&["-plaintext"], flags].concat(), words).await
}

/// Runs grpcurl against an address, over TLS unless the flags say otherwise.
pub async fn grpcurl_to(address: &str, flags: &[&str], words: &[&str]) -> Output {
    let output = Command::new(tool("MARKREAD_TEST_GRPCURL", "grpcurl"))
        .args(flags)
        .arg(address)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(LIMIT, output).await.expect("grpcurl ends").expect("grpcurl is installed")
}
