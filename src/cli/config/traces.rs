//! OpenTelemetry's variables, `OTEL_*`. The SDK reads most of them itself, and uses its default if one is
//! invalid; here an invalid one turns traces off, with a warning that names it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use crate::files;
use crate::telemetry::{CollectorTls, OtlpProtocol, TracesConfig};

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Numbers and their maximum. The queue is allocated at the start.
const NUMBERS: [(&str, u64); 5] = [
    ("OTEL_BSP_SCHEDULE_DELAY", 3_600_000),
    ("OTEL_BSP_MAX_QUEUE_SIZE", 100_000),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 100_000),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", 3_600_000),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", 3_600_000),
];

/// Longest time of an export, unless it is set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the settings of traces. Returns `None` if traces are off, as they are without an endpoint.
pub(super) fn read(
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<TracesConfig>, String> {
    let environment = Environment { variable };
    if environment.get("OTEL_SDK_DISABLED")?.is_some_and(|it| it.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    environment.one_of("OTEL_TRACES_EXPORTER", &["otlp", "none"])?;
    if environment.get("OTEL_TRACES_EXPORTER")?.as_deref() == Some("none") {
        return Ok(None);
    }
    let Some((name, endpoint)) = environment.of_traces("ENDPOINT")? else { return Ok(None) };
    let url: Option<Uri> = endpoint.parse().ok().filter(|url: &Uri| url.host().is_some());
    let Some(scheme @ ("http" | "https")) = url.as_ref().and_then(Uri::scheme_str) else {
        return Err(format!(
            "{name} is not a URL: it must be http://host:port or https://host:port"
        ));
    };
    let tls = if scheme == "https" { Some(environment.tls()?) } else { None };
    environment.check()?;
    let protocol = environment.protocol()?;
    // Only the endpoint of all signals is a base (OTLP exporter specification).
    let endpoint = match protocol {
        OtlpProtocol::Http if !name.contains("TRACES") => {
            format!("{}/v1/traces", endpoint.trim_end_matches('/'))
        }
        _ => endpoint,
    };
    let timeout = environment.timeout()?;
    let resource = environment.resource()?;
    Ok(Some(TracesConfig { endpoint, protocol, tls, timeout, resource }))
}

struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'_> {
    /// Reads a variable. An empty one counts as unset (OpenTelemetry specification).
    fn get(&self, name: &str) -> Result<Option<String>, String> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        value
            .map(OsString::into_string)
            .transpose()
            .map_err(|_| format!("{name} is not UTF-8 text"))
    }

    /// Reads a variable of the exporter: the one for traces, otherwise the one for all signals. Returns its
    /// name too.
    fn of_traces(&self, name: &str) -> Result<Option<(String, String)>, String> {
        for name in ["TRACES_", ""].map(|signal| format!("OTEL_EXPORTER_OTLP_{signal}{name}")) {
            if let Some(value) = self.get(&name)? {
                return Ok(Some((name, value)));
            }
        }
        Ok(None)
    }

    fn one_of(&self, name: &str, allowed: &[&str]) -> Result<(), String> {
        match self.get(name)? {
            Some(value) if !allowed.contains(&value.as_str()) => {
                Err(unsupported(name, &value, allowed))
            }
            _ => Ok(()),
        }
    }

    /// Checks the variables that the SDK reads itself.
    fn check(&self) -> Result<(), String> {
        let compressions = ["none", "gzip"];
        if let Some((name, value)) = self.of_traces("COMPRESSION")?
            && !compressions.contains(&value.as_str())
        {
            return Err(unsupported(&name, &value, &compressions));
        }
        self.one_of("OTEL_TRACES_SAMPLER", &SAMPLERS)?;
        self.check_sampled_ratio()?;
        for (name, max) in NUMBERS {
            let Some(value) = self.get(name)? else { continue };
            if !value.parse().is_ok_and(|number: u64| (1..=max).contains(&number)) {
                return Err(format!(
                    "{name} {value:?} is invalid: it must be an integer from 1 to {max}"
                ));
            }
        }
        // Headers are not quoted: they may contain credentials.
        if let Some((name, value)) = self.of_traces("HEADERS")?
            && !pairs(&value).all(is_header)
        {
            return Err(format!(
                "{name} is not a list of headers: it must be name=value,name=value"
            ));
        }
        Ok(())
    }

    fn protocol(&self) -> Result<OtlpProtocol, String> {
        let protocols = [("grpc", OtlpProtocol::Grpc), ("http/protobuf", OtlpProtocol::Http)];
        let Some((name, value)) = self.of_traces("PROTOCOL")? else {
            return Ok(OtlpProtocol::Grpc);
        };
        let protocol = protocols.iter().find(|(known, _)| *known == value);
        protocol
            .map(|(_, protocol)| *protocol)
            .ok_or_else(|| unsupported(&name, &value, &protocols.map(|(known, _)| known)))
    }

    /// Reads the time of one export. [`Self::check`] has checked it.
    fn timeout(&self) -> Result<Duration, String> {
        let value = self.of_traces("TIMEOUT")?.and_then(|(_, value)| value.parse().ok());
        Ok(value.map_or(DEFAULT_TIMEOUT, Duration::from_millis))
    }

    /// Reads the resource attributes. The SDK would not decode their values.
    fn resource(&self) -> Result<Vec<(String, String)>, String> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let list = self.get(NAME)?.unwrap_or_default();
        let decoded = pairs(&list).map(|pair| {
            let (name, value) = pair.filter(|(name, _)| !name.is_empty())?;
            Some((name.to_owned(), decode(value)?.into_owned()))
        });
        let mut resource: Vec<_> = decoded.collect::<Option<_>>().ok_or_else(|| {
            format!("{NAME} is not a list: it must be name=value,name=value, percent-encoded")
        })?;
        if let Some(name) = self.get("OTEL_SERVICE_NAME")? {
            resource.push(("service.name".to_owned(), name));
        }
        Ok(resource)
    }

    fn check_sampled_ratio(&self) -> Result<(), String> {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let sampler = self.get("OTEL_TRACES_SAMPLER")?.unwrap_or_default();
        if !sampler.ends_with("traceidratio") {
            return Ok(());
        }
        match self.get(NAME)? {
            Some(ratio) if !ratio.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) => {
                Err(format!("{NAME} {ratio:?} is not a ratio: it must be a number from 0 to 1"))
            }
            // Without it the ratio is 1.0 (OpenTelemetry specification).
            Some(_) | None => Ok(()),
        }
    }

    /// Reads the TLS settings for the collector.
    fn tls(&self) -> Result<CollectorTls, String> {
        let ca = self.file("CERTIFICATE", files::read_certificates)?.map(|(_, pem)| pem);
        let certificate = self.file("CLIENT_CERTIFICATE", files::read_certificates)?;
        let key = self.file("CLIENT_KEY", files::read_private_key)?;
        match (certificate, key) {
            (Some((_, chain)), Some((_, key))) => {
                Ok(CollectorTls { ca, certificate: Some((chain, key)) })
            }
            (None, None) => Ok(CollectorTls { ca, certificate: None }),
            (Some((name, _)), None) => {
                Err(format!("{name} must be set together with OTEL_EXPORTER_OTLP_CLIENT_KEY"))
            }
            (None, Some((name, _))) => Err(format!(
                "{name} must be set together with OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
            )),
        }
    }

    /// Reads the file that a variable of the exporter names. Returns the variable's name too.
    fn file(
        &self,
        name: &str,
        read: impl Fn(&str, &Path) -> Result<Vec<u8>, String>,
    ) -> Result<Option<(String, Vec<u8>)>, String> {
        let Some((name, file)) = self.of_traces(name)? else { return Ok(None) };
        let contents = read(&name, Path::new(&file))?;
        Ok(Some((name, contents)))
    }
}

fn unsupported(name: &str, value: &str, allowed: &[&str]) -> String {
    let one_of = if allowed.len() > 1 { "one of " } else { "" };
    format!("{name} {value:?} is not supported: it must be {one_of}{}", allowed.join(", "))
}

/// Splits a list into pairs; `None` for an item that is not a pair.
fn pairs(list: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let pairs = list.split_terminator(',').map(|pair| pair.split_once('='));
    pairs.map(|pair| pair.map(|(name, value)| (name.trim(), value.trim())))
}

fn decode(value: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(value).decode_utf8().ok()
}

/// Returns whether a pair is a header with a percent-encoded value.
fn is_header(pair: Option<(&str, &str)>) -> bool {
    let Some((name, value)) = pair else { return false };
    let value = decode(value).is_some_and(|value| HeaderValue::from_str(&value).is_ok());
    value && HeaderName::try_from(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn read_from(variables: Variables<'_>) -> Result<Option<TracesConfig>, String> {
        read(&|name| {
            let set = variables.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn traces_are_on_with_an_endpoint_unless_turned_off() {
        let table: [(Variables<'_>, Option<&str>); 9] = [
            (&[], None),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None),
            (&[("OTEL_SERVICE_NAME", "name")], None),
            (&[ENDPOINT], Some("http://collector:4317")),
            (
                &[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other")],
                Some("https://other"),
            ),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "otlp")], Some("http://collector:4317")),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], None),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], None),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")], Some("http://collector:4317")),
        ];
        for (variables, endpoint) in table {
            let config = read_from(variables).unwrap();
            let read = config.as_ref().map(|config| config.endpoint.as_str());
            assert_eq!(read, endpoint, "{variables:?}");
        }
    }

    #[test]
    fn an_invalid_variable_is_named_with_what_is_allowed() {
        let table = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317", "http://host:port"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector", "http://host:port"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "http://host:port"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http", "grpc, http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "grpc, http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "none, gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "3600000"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2", "name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0a", "name=value"),
            ("OTEL_RESOURCE_ATTRIBUTES", "hunter2", "name=value"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=hunter2", "name=value"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=hunter2%ff", "name=value"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, none"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_always_on"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "1 to 100000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999", "1 to 100000"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1", "1 to 100000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon", "1 to 3600000"),
        ];
        for (name, value, takes) in table {
            let problem = read_from(&[ENDPOINT, (name, value)]).expect_err(value);
            assert!(problem.starts_with(name), "{problem}");
            assert!(problem.contains(takes) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_sampled_ratio_is_from_0_to_1() {
        for (part, good) in [("0", true), ("0.25", true), ("1", true), ("1.1", false), ("x", false)]
        {
            let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
            let config = read_from(&[ENDPOINT, sampler, ("OTEL_TRACES_SAMPLER_ARG", part)]);
            assert_eq!(config.is_ok(), good, "{part}");
        }
        assert!(read_from(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio")]).is_ok());
    }

    #[test]
    fn the_endpoint_of_all_signals_is_a_base_over_http() {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:4318/spans");
        let slash = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otlp/");
        let timeout = ("OTEL_EXPORTER_OTLP_TIMEOUT", "250");
        let table: [(Variables<'_>, _, _, _); 4] = [
            (&[ENDPOINT], OtlpProtocol::Grpc, "http://collector:4317", 10_000),
            (&[ENDPOINT, http], OtlpProtocol::Http, "http://collector:4317/v1/traces", 10_000),
            (
                &[slash, http, timeout],
                OtlpProtocol::Http,
                "http://collector:4318/otlp/v1/traces",
                250,
            ),
            (&[slash, own, http], OtlpProtocol::Http, "http://other:4318/spans", 10_000),
        ];
        for (variables, protocol, endpoint, timeout_ms) in table {
            let config = read_from(variables).unwrap().unwrap();
            assert_eq!((config.protocol, &*config.endpoint), (protocol, endpoint), "{variables:?}");
            assert_eq!(config.timeout, Duration::from_millis(timeout_ms), "{variables:?}");
        }
    }

    #[test]
    fn files_must_exist_and_contain_what_they_are_for() {
        let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file").to_str().unwrap().to_owned();
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let table = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", None, "cannot be read"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", Some(""), "is empty"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", Some(key), "contains no PEM certificate"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", Some("x"), "contains no PEM private key"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", Some(key), "must be set together"),
        ];
        for (name, contents, words) in table {
            if let Some(contents) = contents {
                std::fs::write(&file, contents).unwrap();
            }
            let problem = read_from(&[https, (name, &file)]).unwrap_err();
            assert!(problem.starts_with(name) && problem.contains(words), "{problem}");
        }
    }
}
