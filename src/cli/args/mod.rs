//! Every flag, its environment variable, its default and its unit, as clap reads and prints them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};

pub(in crate::cli) use self::admin::{
    AdminArgs, AdminRedisArgs, CursorsArgs, DestinationArgs, EraseArgs, ExportArgs, ImportArgs,
    MoveArgs, SetArgs,
};
pub(in crate::cli) use self::client::{
    ClientArgs, ExpectArgs, HealthcheckArgs, MarkArgs, StateArgs, WatchArgs,
};
pub(in crate::cli) use self::empty::parse;
pub(in crate::cli) use self::redis::{ModeName, RedisArgs};
pub(in crate::cli) use self::relay::{
    CheckArgs, ListArgs, ReceiveArgs, RedeliverArgs, RelayArgs, SubscribeArgs, TargetArgs,
    WebhookArgs,
};
pub(in crate::cli) use self::serve::ServeArgs;

mod admin;
mod client;
mod empty;
mod redis;
mod relay;
mod serve;

/// Shortest duration but zero: timers count in milliseconds.
const DURATION_MIN: Duration = Duration::from_millis(1);

/// Longest duration: clocks can count that far.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Read state for direct messages, as a service.
#[derive(Parser)]
#[command(name = "markread", version = version())]
pub(in crate::cli) struct Cli {
    #[command(subcommand)]
    pub(in crate::cli) command: CliCommand,
}

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("MARKREAD_REVISION"), ")")
}

const TRACES: &str = "Traces go to the OpenTelemetry Collector at OTEL_EXPORTER_OTLP_ENDPOINT, as \
                      the other standard OTEL_* variables say [default: off]";

#[derive(Subcommand)]
pub(in crate::cli) enum CliCommand {
    /// Serves gRPC on Redis, or with --dev on an embedded store.
    #[command(after_help = TRACES)]
    Serve(Box<ServeArgs>),
    /// Prints a signed JWT (HS256) for development.
    Token(TokenArgs),
    /// Marks a message as read, at a server.
    Mark(MarkArgs),
    /// Shows how far the reader and the others have read conversations.
    State(StateArgs),
    /// Prints mark-read events as they arrive, one a line.
    Watch(WatchArgs),
    /// Reads and changes what is in Redis, for operators.
    #[command(subcommand)]
    Admin(Box<AdminArgs>),
    /// Delivers mark-read events to webhooks.
    #[command(after_help = TRACES)]
    Relay(Box<RelayArgs>),
    /// Subscribes users to webhooks, checks webhooks, and sends dead letters again.
    #[command(subcommand)]
    Webhook(Box<WebhookArgs>),
    /// Exits with status 0 if a server answers SERVING, otherwise 1: readiness, for images without a
    /// shell.
    Healthcheck(HealthcheckArgs),
}

#[derive(Args)]
pub(in crate::cli) struct TokenArgs {
    /// User ID in the token
    #[arg(long, value_name = "ID", env = "MARKREAD_USER", hide_env_values = true)]
    pub(in crate::cli) user: String,

    /// File with the secret of serve
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_SECRET_FILE", hide_env_values = true)]
    pub(in crate::cli) jwt_secret_file: PathBuf,

    /// How long the token is valid
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_TTL", hide_env_values = true)]
    pub(in crate::cli) ttl: Duration,

    /// File to write the token to, readable only by its owner [default: standard output]
    #[arg(long, value_name = "FILE", env = "MARKREAD_OUTPUT", hide_env_values = true)]
    pub(in crate::cli) output: Option<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) expected: ExpectedArgs,
}

#[derive(Args)]
pub(in crate::cli) struct ExpectedArgs {
    /// Issuer (iss) of tokens
    #[arg(long, value_name = "TEXT", env = "MARKREAD_JWT_ISSUER", hide_env_values = true)]
    pub(in crate::cli) jwt_issuer: Option<String>,

    /// Audience (aud) of tokens
    #[arg(long, value_name = "TEXT", env = "MARKREAD_JWT_AUDIENCE", hide_env_values = true)]
    pub(in crate::cli) jwt_audience: Option<String>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let form = "it must be an IP address and a port, as in 127.0.0.1:50051 or [::]:50051";
    text.parse().map_err(|_| form.to_owned())
}

fn integer<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| {
            format!("it must be an integer from {} to {}", range.start(), range.end())
        })
    }
}

/// Parses a number of bytes, with or without a unit.
fn bytes(min: u64) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let form = "it must be a number of bytes, as in 536870912, 512MiB or 2GiB";
        let ByteSize(bytes) = text.parse().map_err(|_| form.to_owned())?;
        if bytes < min {
            return Err(format!("it must be at least {min} bytes"));
        }
        Ok(bytes)
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let form = "it must be a number and a unit, as in 500ms, 20s, 15m or 1h";
    let duration = humantime::parse_duration(text).map_err(|_| form.to_owned())?;
    if duration > DURATION_MAX {
        return Err("it must be at most 365 days".to_owned());
    }
    Ok(duration)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        shorter if shorter < DURATION_MIN => Err("it must be at least 1ms".to_owned()),
        duration => Ok(duration),
    }
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        shorter if !shorter.is_zero() && shorter < DURATION_MIN => {
            Err("it must be 0s or at least 1ms".to_owned())
        }
        duration => Ok(duration),
    }
}
