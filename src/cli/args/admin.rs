//! Flags of `markread admin`.

use clap::{Args, Subcommand};

use super::RedisArgs;

#[derive(Subcommand)]
pub(in crate::cli) enum AdminArgs {
    /// Writes layout version 2, in which nobody can pick recipients that share a bucket. Every server
    /// must know that version.
    UpgradeLayout(LayoutArgs),
    /// Moves all readers back to layout version 1. Every server must be stopped.
    DowngradeLayout(LayoutArgs),
}

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct LayoutArgs {
    /// URL of Redis: redis://, rediss:// or unix:// [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL", env = "MARKREAD_REDIS_URL", hide_env_values = true)]
    pub(in crate::cli) redis_url: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) redis: RedisArgs,
}
