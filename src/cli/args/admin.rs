//! Flags of `markread admin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{RedisArgs, integer};

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
