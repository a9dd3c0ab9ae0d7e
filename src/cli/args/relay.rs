//! Flags of `markread relay` and `markread webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{AdminRedisArgs, address, duration_or_zero, integer, positive_duration, switch};
use crate::telemetry::LogFormat;

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct RelayArgs {
    /// File with the webhooks, TOML; read again when it or a file that it names changes
    #[arg(long, value_name = "FILE", env = "MARKREAD_WEBHOOKS", hide_env_values = true)]
    pub(in crate::cli) webhooks: PathBuf,

    #[command(flatten)]
    pub(in crate::cli) targets: TargetArgs,

    /// Address and port of /metrics, /livez and /readyz, plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9465", value_parser = address)]
    #[arg(env = "MARKREAD_OPS_LISTEN", hide_env_values = true)]
    pub(in crate::cli) ops_listen: SocketAddr,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,

    /// Key of the stream of mark-read events in Redis, as of serve
    #[arg(long, value_name = "KEY", default_value = "direct_message_mark_read_events")]
    #[arg(env = "MARKREAD_STREAM", hide_env_values = true)]
    pub(in crate::cli) stream: String,

    /// How long the checks of a webhook may fail, as of a receiver that is away, before it is paused
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_CHECK_GRACE", hide_env_values = true)]
    pub(in crate::cli) check_grace: Duration,

    /// Attempts to deliver an event before it becomes a dead letter
    #[arg(long, value_name = "ATTEMPTS", default_value_t = 20)]
    #[arg(value_parser = integer::<u32>(1..=1000))]
    #[arg(env = "MARKREAD_MAX_ATTEMPTS", hide_env_values = true)]
    pub(in crate::cli) max_attempts: u32,

    /// Age at which an event that was not delivered becomes a dead letter. The first time that a webhook is
    /// seen it gets the events that are not older
    #[arg(long, value_name = "DURATION", default_value = "120h", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_MAX_AGE", hide_env_values = true)]
    pub(in crate::cli) max_age: Duration,

    /// Dead letters that are kept of each webhook, approximately; 0 keeps all. One has 0.5 KB, or 6.6 KB
    /// with two user objects of 3 KB
    #[arg(long, value_name = "LETTERS", default_value_t = 100_000)]
    #[arg(value_parser = integer::<u64>(0..=999_999_999_999_999))]
    #[arg(env = "MARKREAD_DEAD_LETTERS_MAXLEN", hide_env_values = true)]
    pub(in crate::cli) dead_letters_maxlen: u64,

    /// Deliveries to one webhook at the same time, of this process
    #[arg(long, value_name = "DELIVERIES", default_value_t = 64)]
    #[arg(value_parser = integer::<u16>(1..=1024))]
    #[arg(env = "MARKREAD_CONCURRENCY", hide_env_values = true)]
    pub(in crate::cli) concurrency: u16,

    /// After SIGTERM, how long deliveries in flight may finish
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_DRAIN", hide_env_values = true)]
    pub(in crate::cli) drain: Duration,

    /// Format of log lines [default: text on a terminal, else json]. RUST_LOG sets the level
    #[arg(long, value_name = "FORMAT", env = "MARKREAD_LOG_FORMAT", hide_env_values = true)]
    pub(in crate::cli) log_format: Option<LogFormat>,
}

/// Where deliveries may go.
#[derive(Args)]
pub(in crate::cli) struct TargetArgs {
    /// Also deliver to http:// URLs, for receivers on the same machine
    #[arg(long, env = "MARKREAD_ALLOW_HTTP", hide_env_values = true, value_parser = switch)]
    pub(in crate::cli) allow_http: bool,

    /// Also deliver to private, loopback, link-local and other special addresses
    #[arg(long, env = "MARKREAD_ALLOW_PRIVATE", hide_env_values = true, value_parser = switch)]
    pub(in crate::cli) allow_private: bool,
}

#[derive(Subcommand)]
pub(in crate::cli) enum WebhookArgs {
    /// Subscribes users to a webhook.
    Subscribe(SubscribeArgs),
    /// Unsubscribes users from a webhook.
    Unsubscribe(SubscribeArgs),
    /// Prints the subscribed users of a webhook, one ID a line.
    List(ListArgs),
    /// Checks a webhook now. If its receiver passes, it is no longer paused.
    Check(CheckArgs),
    /// Sends dead letters of a webhook again, and removes those that arrive.
    Redeliver(RedeliverArgs),
    /// Receives events, for development and tests: answers checks, verifies signatures, prints each event
    /// on a line.
    Receive(ReceiveArgs),
}

#[derive(Args)]
#[command(next_line_help = true)]
pub(in crate::cli) struct SubscribeArgs {
    /// Name of the webhook
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,

    /// User IDs
    #[arg(value_name = "ID")]
    pub(in crate::cli) users: Vec<String>,

    /// User ID; repeatable
    #[arg(long = "user", value_name = "ID")]
    pub(in crate::cli) more_users: Vec<String>,

    /// File with user IDs, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) users_file: Option<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
#[command(next_line_help = true)]
pub(in crate::cli) struct ListArgs {
    /// Name of the webhook
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
#[command(next_line_help = true)]
pub(in crate::cli) struct CheckArgs {
    /// Name of the webhook
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,

    /// File with the webhooks, TOML, as of relay
    #[arg(long, value_name = "FILE", env = "MARKREAD_WEBHOOKS", hide_env_values = true)]
    pub(in crate::cli) webhooks: PathBuf,

    #[command(flatten)]
    pub(in crate::cli) targets: TargetArgs,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
#[command(next_line_help = true)]
pub(in crate::cli) struct RedeliverArgs {
    /// Name of the webhook
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,

    /// Only events that are not older
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(in crate::cli) since: Option<Duration>,

    /// Only events for this user
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) user: Option<String>,

    /// Only the event with this webhook-id
    #[arg(long, value_name = "WEBHOOK-ID")]
    pub(in crate::cli) id: Option<String>,

    /// File with the webhooks, TOML, as of relay
    #[arg(long, value_name = "FILE", env = "MARKREAD_WEBHOOKS", hide_env_values = true)]
    pub(in crate::cli) webhooks: PathBuf,

    #[command(flatten)]
    pub(in crate::cli) targets: TargetArgs,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
#[command(next_line_help = true)]
pub(in crate::cli) struct ReceiveArgs {
    /// Address and port to receive at, plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(in crate::cli) listen: SocketAddr,

    /// File with the consumer secret, that of the webhook
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) secret_file: PathBuf,

    /// Exit after so many events; without it, at SIGTERM
    #[arg(long, value_name = "EVENTS", value_parser = integer::<u64>(1..=1_000_000_000))]
    pub(in crate::cli) expect: Option<u64>,

    /// With --expect, exit with status 1 after this time
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
}
