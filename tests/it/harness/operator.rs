//! What an operator and their tools ask: Health, reflection, grpcurl. None has credentials.

use std::ffi::OsString;
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

use super::Server;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Operator(Channel);

impl Operator {
    pub(crate) fn of(server: &Server) -> Self {
        Self(server.channel())
    }

    pub(crate) async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.0.clone()).check(request).await?;
        Ok(answer.into_inner().status())
    }

    pub(crate) async fn watch_health(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(self.0.clone()).watch(request).await.unwrap().into_inner()
    }

    /// A reflection stream: what is asked on it, what is answered.
    pub(crate) async fn open_reflection(
        &self,
    ) -> (Sender<ServerReflectionRequest>, Streaming<ServerReflectionResponse>) {
        let (sender, receiver) = channel(1);
        let mut client = ServerReflectionClient::new(self.0.clone());
        let answers = client.server_reflection_info(ReceiverStream::new(receiver)).await;
        (sender, answers.unwrap().into_inner())
    }
}

/// Runs grpcurl on a server: flags that go before the address, words that go after.
pub(crate) async fn grpcurl(server: &Server, flags: &[&str], words: &[&str]) -> Output {
    grpcurl_to(&server.address, &[&["-plaintext"], flags].concat(), words).await
}

/// The same at an address, over TLS where the flags do not say otherwise.
pub(crate) async fn grpcurl_to(address: &str, flags: &[&str], words: &[&str]) -> Output {
    let program =
        std::env::var_os("MARKREAD_TEST_GRPCURL").unwrap_or_else(|| OsString::from("grpcurl"));
    let output = Command::new(program)
        .args(flags)
        .arg(address)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(LIMIT, output).await.expect("grpcurl ends").expect("grpcurl is installed")
}
