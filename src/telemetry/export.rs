//! Sends spans to an OpenTelemetry Collector: over OTLP, in batches, from a thread of their own.
//!
//! The queue between calls and the collector is bounded. Spans that a slow or absent collector does
//! not accept are lost. Only the exit waits for it, for up to 2 s.

use std::fmt;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::LogThrottle;
use super::otlp_http::OtlpHttp;

/// Longest time that the exit waits for the collector to accept the remaining spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of the exporter. The SDK reads the other standard variables itself.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// The collector's URL: over HTTP with its path.
    pub endpoint: String,
    /// How spans are sent.
    pub protocol: OtlpProtocol,
    /// TLS settings, if the URL is `https://`.
    pub tls: Option<CollectorTls>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Resource attributes, as names and values. The last value of a name counts.
    pub resource: Vec<(String, String)>,
}

/// How spans are sent to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// TLS settings for the collector, as PEM texts.
#[derive(Clone)]
pub struct CollectorTls {
    /// The CAs of its certificate; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// This client's certificate chain, and its private key.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// One text is a private key.
impl fmt::Debug for CollectorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorTls").finish_non_exhaustive()
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
    pub fn start(config: TracesConfig) -> Result<Self, String> {
        let TracesConfig { endpoint, protocol, tls, timeout, resource } = config;
        let builder = opentelemetry_otlp::SpanExporter::builder();
        let exporter = match protocol {
            OtlpProtocol::Grpc => {
                let builder = builder.with_tonic().with_endpoint(endpoint).with_timeout(timeout);
                match tls {
                    Some(tls) => builder.with_tls_config(tls.into_tonic()).build(),
                    None => builder.build(),
                }
            }
            OtlpProtocol::Http => builder
                .with_http()
                .with_http_client(OtlpHttp::new(tls, timeout)?)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(endpoint)
                .with_timeout(timeout)
                .build(),
        };
        let exporter = exporter.map_err(|error| error.to_string())?;
        let exporter = LoggingExporter { exporter, losses: LogThrottle::default() };
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

impl CollectorTls {
    fn into_tonic(self) -> ClientTlsConfig {
        let tls = match self.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match self.certificate {
            Some((chain, key)) => tls.identity(Identity::from_pem(chain, key)),
            None => tls,
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
