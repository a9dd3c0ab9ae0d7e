//! Spans on their way to an OpenTelemetry Collector: over OTLP, in batches, by a thread of their
//! own.
//!
//! Between a call and the collector stands a queue with a bound. What a collector that is slow or
//! away does not take is lost, and nothing waits for it but the exit, for a moment.

use std::fmt;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tonic::transport::ClientTlsConfig;

use super::Throttle;

/// How long the exit may wait for the collector to take what is left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where spans go. The SDK reads the rest of the standard variables itself.
#[derive(Clone)]
pub struct TracesConfig {
    /// The collector's URL.
    pub endpoint: String,
    /// What ends TLS there is held against, where the URL is one of https.
    pub tls: Option<ClientTlsConfig>,
    /// Who sends them: names and values, the last of a name being the one that counts.
    pub resource: Vec<(String, String)>,
}

/// The TLS configuration may hold a private key.
impl fmt::Debug for TracesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracesConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The spans of this process.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts to send what is traced. It takes a runtime, which must last until the flush.
    ///
    /// # Errors
    ///
    /// When no client can be made of the settings.
    pub fn start(config: TracesConfig) -> Result<Self, ExporterBuildError> {
        let TracesConfig { endpoint, tls, resource } = config;
        let mut exporter =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        if let Some(tls) = tls {
            exporter = exporter.with_tls_config(tls);
        }
        let exporter = Observed { exporter: exporter.build()?, losses: Throttle::default() };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(sender(resource))
            .build();
        Ok(Self(provider))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends what is left, or gives up. It blocks, and so is no task's to call.
    pub fn flush(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(cause = ?error.to_string(), "the last spans are lost");
        }
    }
}

/// What is known of this process, where the settings do not say otherwise.
fn sender(settings: Vec<(String, String)>) -> Resource {
    let said = settings.into_iter().map(|(name, value)| KeyValue::new(name, value));
    Resource::builder_empty()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(said)
        .build()
}

/// An exporter whose losses the log is told of, now and then. The exporter's errors name no header.
#[derive(Debug)]
struct Observed {
    exporter: opentelemetry_otlp::SpanExporter,
    losses: Throttle,
}

impl SpanExporter for Observed {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported
            && let Some(silenced) = self.losses.ask()
        {
            tracing::warn!(cause = ?error.to_string(), spans, silenced, "spans are lost");
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
