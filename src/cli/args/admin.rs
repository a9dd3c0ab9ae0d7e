//! Flags of `markread admin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ModeName, RedisArgs, integer};

#[derive(Subcommand)]
pub(in crate::cli) enum AdminArgs {
    /// Prints all cursors of a reader, as JSON lines.
    Cursors(CursorsArgs),
    /// Sets one cursor of a reader, without an event.
    Set(SetArgs),
    /// Erases what Redis holds of a user: cursors, quotas, subscriptions.
    Erase(EraseArgs),
    /// Writes all cursors of all readers, as JSON lines.
    Export(ExportArgs),
    /// Puts the cursors of JSON lines. None moves backwards.
    Import(ImportArgs),
    /// Moves all cursors to another Redis, while this one is served. None moves backwards.
    Move(MoveArgs),
    /// Writes layout version 2, in which nobody can pick recipients that share a bucket. Every server
    /// must know that version.
    UpgradeLayout(AdminRedisArgs),
    /// Moves all readers back to layout version 1. Every server must be stopped.
    DowngradeLayout(AdminRedisArgs),
}

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct AdminRedisArgs {
    /// URL of Redis: redis://, rediss:// or unix://; repeatable, for several Sentinels or nodes of a
    /// cluster [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL", env = "MARKREAD_REDIS_URL", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) redis_url: Vec<String>,

    #[command(flatten)]
    pub(in crate::cli) redis: RedisArgs,
}

#[derive(Args)]
pub(in crate::cli) struct CursorsArgs {
    /// User ID of the reader
    #[arg(long, value_name = "ID", env = "MARKREAD_USER", hide_env_values = true)]
    pub(in crate::cli) user: String,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

/// The cursor has no variables, and neither has the user of `erase`: those of other commands may be set in
/// the same shell.
#[derive(Args)]
pub(in crate::cli) struct SetArgs {
    /// User ID of the reader
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) user: String,

    /// User ID of the other user of the conversation
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) recipient: String,

    /// ID of the message up to which the conversation is read
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) last_read_event_id: String,

    /// Also set it back
    #[arg(long)]
    pub(in crate::cli) force: bool,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
pub(in crate::cli) struct EraseArgs {
    /// User ID
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) user: String,

    /// Also erase the events that name the user, as reader or as recipient
    #[arg(long)]
    pub(in crate::cli) events: bool,

    /// Also erase the cursors of other readers in their conversations with the user
    #[arg(long)]
    pub(in crate::cli) as_recipient: bool,

    /// Key of the stream of mark-read events in Redis, as of serve
    #[arg(long, value_name = "KEY", default_value = "direct_message_mark_read_events")]
    #[arg(env = "MARKREAD_STREAM", hide_env_values = true)]
    pub(in crate::cli) stream: String,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
pub(in crate::cli) struct ExportArgs {
    /// File to write to, readable only by its owner. It must not exist, and is FILE.partial until it is
    /// complete [default: standard output]
    #[arg(long, value_name = "FILE", env = "MARKREAD_OUTPUT", hide_env_values = true)]
    pub(in crate::cli) output: Option<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
pub(in crate::cli) struct ImportArgs {
    /// File with JSON lines; - is standard input
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,

    /// Lines at the beginning of the file that were imported before
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    #[arg(value_parser = integer::<u64>(0..=u64::MAX))]
    #[arg(env = "MARKREAD_SKIP_LINES", hide_env_values = true)]
    pub(in crate::cli) skip_lines: u64,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct MoveArgs {
    /// URL of the Redis that the cursors are moved to: redis://, rediss:// or unix://; repeatable, for
    /// several Sentinels or nodes of a cluster
    #[arg(long, value_name = "URL", env = "MARKREAD_TO", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) to: Vec<String>,

    #[command(flatten)]
    pub(in crate::cli) destination: DestinationArgs,

    /// Also follow what advances afterwards, until SIGINT or SIGTERM
    #[arg(long, conflicts_with = "finish")]
    pub(in crate::cli) follow: bool,

    /// When everything is copied, shut the servers of --redis-url out, copy the rest and verify all
    /// cursors
    #[arg(long)]
    pub(in crate::cli) finish: bool,

    /// Undo --finish: let servers use --redis-url again. What was marked elsewhere since is not there
    #[arg(long, conflicts_with_all = ["finish", "follow"])]
    pub(in crate::cli) undo: bool,

    /// Key of the stream of mark-read events in Redis, as of serve
    #[arg(long, value_name = "KEY", default_value = "direct_message_mark_read_events")]
    #[arg(env = "MARKREAD_STREAM", hide_env_values = true)]
    pub(in crate::cli) stream: String,

    #[command(flatten)]
    pub(in crate::cli) redis: AdminRedisArgs,
}

/// How to log in at the Redis that cursors are moved to.
#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct DestinationArgs {
    /// What --to names: one Redis, the Sentinels of a master, or nodes of a cluster [default:
    /// standalone]
    #[arg(
        id = "to_mode",
        long = "to-mode",
        value_name = "MODE",
        env = "MARKREAD_TO_MODE",
        hide_env_values = true
    )]
    pub(in crate::cli) mode: Option<ModeName>,

    /// Shares of the readers at the destination. Other than 1 only in a cluster [default: 64 in a
    /// cluster, else 1]
    #[arg(
        id = "to_partitions",
        long = "to-partitions",
        value_name = "PARTITIONS",
        env = "MARKREAD_TO_PARTITIONS"
    )]
    #[arg(hide_env_values = true, value_parser = integer::<u16>(1..=1024))]
    pub(in crate::cli) partitions: Option<u16>,

    /// Name of the destination's master in the Sentinels' configuration
    #[arg(
        id = "to_sentinel_master",
        long = "to-sentinel-master",
        value_name = "NAME",
        env = "MARKREAD_TO_SENTINEL_MASTER",
        hide_env_values = true
    )]
    pub(in crate::cli) sentinel_master: Option<String>,

    /// User name for that Redis [default: the one in --to, else Redis's default user]
    #[arg(
        id = "to_username",
        long = "to-redis-username",
        value_name = "NAME",
        env = "MARKREAD_TO_REDIS_USERNAME"
    )]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) username: Option<String>,

    /// File with the password for that Redis, without one newline at the end
    #[arg(id = "to_password_file", long = "to-redis-password-file", value_name = "FILE")]
    #[arg(env = "MARKREAD_TO_REDIS_PASSWORD_FILE", hide_env_values = true)]
    pub(in crate::cli) password_file: Option<PathBuf>,

    /// File with the CAs of that Redis's certificate, PEM, for rediss:// [default: the system's]
    #[arg(id = "to_ca", long = "to-redis-ca", value_name = "FILE", env = "MARKREAD_TO_REDIS_CA")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) ca: Option<PathBuf>,

    /// File with the client certificate chain for that Redis, PEM
    #[arg(
        id = "to_cert",
        long = "to-redis-cert",
        value_name = "FILE",
        env = "MARKREAD_TO_REDIS_CERT"
    )]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) cert: Option<PathBuf>,

    /// File with the certificate's private key, PEM
    #[arg(
        id = "to_key",
        long = "to-redis-key",
        value_name = "FILE",
        env = "MARKREAD_TO_REDIS_KEY"
    )]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) key: Option<PathBuf>,
}
