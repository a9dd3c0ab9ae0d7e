//! Sends spans to an OpenTelemetry Collector: over OTLP, in batches, from a thread of their own.
//!
//! The queue between calls and the collector is bounded. Spans that a slow or absent collector does
//! not accept are lost. Only the exit waits for it, for up to 2 s.

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

use super::LogThrottle;

/// Longest time that the exit waits for the collector to accept the remaining spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of the exporter. The SDK reads the other standard variables itself.
#[derive(Clone)]
pub struct TracesConfig {
    /// The collector's URL.
    pub endpoint: String,
    /// TLS settings, if the URL is `https://`.
    pub tls: Option<ClientTlsConfig>,
    /// Resource attributes, as names and values. The last value of a name counts.
    pub resource: Vec<(String, String)>,
}

/// The TLS configuration may contain a private key.
impl fmt::Debug for TracesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracesConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The span exporter of this process.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts the exporter. Needs a runtime, which must last until [`Self::flush`].
    ///
    /// # Errors
    ///
    /// If no client can be created from the settings.
    pub fn start(config: TracesConfig) -> Result<Self, ExporterBuildError> {
        let TracesConfig { endpoint, tls, resource } = config;
        let mut exporter =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        if let Some(tls) = tls {
            exporter = exporter.with_tls_config(tls);
        }
        let exporter =
            LoggingExporter { exporter: exporter.build()?, losses: LogThrottle::default() };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(self::resource(resource))
            .build();
        Ok(Self(provider))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends the remaining spans, or gives up after 2 s. Blocks, so it must not run in a task.
    pub fn flush(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(cause = ?error.to_string(), "the last spans were lost");
        }
    }
}

/// Returns the resource of this process. The settings override the defaults.
fn resource(settings: Vec<(String, String)>) -> Resource {
    let attributes = settings.into_iter().map(|(name, value)| KeyValue::new(name, value));
    Resource::builder_empty()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .build()
}

/// An exporter that logs its losses, throttled. Its errors contain no header.
#[derive(Debug)]
struct LoggingExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    losses: LogThrottle,
}

impl SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported
            && let Some(suppressed) = self.losses.permit()
        {
            tracing::warn!(cause = ?error.to_string(), spans, suppressed, "spans lost");
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
