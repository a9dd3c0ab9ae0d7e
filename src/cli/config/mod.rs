//! The only reader of flags and environment: parses, validates, and says what is wrong in one line.
//!
//! Every option is a flag and an environment variable `MARKREAD_<FLAG>`: CONTRACT section 3.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};
use tonic::Code;

use crate::cli::args::{Cli, CliCommand};
use crate::cli::commands::ask::Ask;
use crate::cli::commands::healthcheck::HealthcheckConfig;
use crate::client::ClientConfig;
use crate::domain::{RateLimit, UserId};
use crate::edge::EdgeConfig;
use crate::identity::jwt::{Expected, Secret};
use crate::net::listener::Limits;
use crate::net::tls::Tls;
use crate::store::redis::RedisConfig;
use crate::telemetry::{LogFormat, TracesConfig};

mod client;
mod identity;
mod traces;
mod validate;

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<ServeConfig>),
    /// Print a signed token.
    Token(TokenConfig),
    /// Ask a server, as a client, and expect this status.
    Ask(Box<ClientConfig>, Ask, Code),
    /// Ask a server whether it is serving.
    Healthcheck(HealthcheckConfig),
}

/// Why nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version was asked for: this text, exit status 0.
    Said(String),
    /// A setting makes no sense: this line, exit status 2.
    Usage(String),
}

/// Settings of `markread serve`, valid.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where gRPC and the HTTP edge are served.
    pub listen: SocketAddr,
    /// What ends TLS there.
    pub tls: Option<Arc<Tls>>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub ops_listen: SocketAddr,
    /// Where cursors are kept.
    pub backend: Backend,
    /// How calls are treated.
    pub edge: EdgeConfig,
    /// What connections may do.
    pub limits: Limits,
    /// How long calls are still taken after SIGTERM.
    pub drain_delay: Duration,
    /// How long calls under way are waited for.
    pub drain: Duration,
    /// Threads that serve calls.
    pub worker_threads: usize,
    /// How log lines look; none means by where they go.
    pub log_format: Option<LogFormat>,
    /// Where spans go; none where calls are not traced.
    pub traces: Option<TracesConfig>,
}

/// Where cursors are kept.
#[derive(Debug)]
pub enum Backend {
    /// In Redis.
    Redis(Box<RedisConfig>),
    /// In this process: `--dev`.
    Memory {
        /// The quota of each reader.
        rate_limit: RateLimit,
        /// The quota of each reader's reads.
        read_rate_limit: RateLimit,
        /// Events that are kept; 0 keeps all.
        stream_max_entries: usize,
    },
}

/// Settings of `markread token`, valid.
#[derive(Debug)]
pub struct TokenConfig {
    /// Whom the token is for.
    pub user: UserId,
    /// What it is signed with.
    pub secret: Secret,
    /// How long it holds.
    pub ttl: Duration,
    /// Where it is written; none means standard output.
    pub output: Option<PathBuf>,
    /// Its issuer and audience.
    pub expected: Expected,
}

/// Reads the command line and the environment.
///
/// # Errors
///
/// [`Stop`], where there is nothing to do but to say something.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Stop> {
    let cli = Cli::try_parse_from(args).map_err(|error| stop(&error))?;
    let command = match cli.command {
        CliCommand::Serve(args) => args.validate().map(|config| Command::Serve(Box::new(config))),
        CliCommand::Token(args) => args.validate().map(Command::Token),
        CliCommand::Mark(args) => args.validate(),
        CliCommand::State(args) => args.validate(),
        CliCommand::Watch(args) => args.validate(),
        CliCommand::Healthcheck(args) => args.validate(),
    };
    command.map_err(|problem| Stop::Usage(one_line(&problem)))
}

/// clap's error as one line: its first paragraph, without the usage that follows.
fn stop(error: &clap::Error) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Said(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Stop::Usage(
                "a command is missing: serve, token, mark, state, watch or healthcheck (--help says \
                 more)"
                    .to_owned(),
            )
        }
        // It is not repeated: a URL with a password may have been meant for --redis-url.
        ErrorKind::UnknownArgument if !names_an_option(error) => Stop::Usage(
            "an argument is neither an option nor its value (--help lists the options)".to_owned(),
        ),
        ErrorKind::InvalidUtf8 => Stop::Usage(
            "a flag or a MARKREAD_ variable is not UTF-8 text: write its value in UTF-8".to_owned(),
        ),
        kind => {
            let problem = text.split("\n\nUsage:").next().unwrap_or_default();
            let problem = problem.split("\n\nFor more").next().unwrap_or_default();
            let problem = one_line(problem.trim_start_matches("error: "));
            Stop::Usage(match kind {
                ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
                    format!("{problem} (--help lists what there is)")
                }
                _ => problem,
            })
        }
    }
}

fn names_an_option(error: &clap::Error) -> bool {
    let argument = error.get(ContextKind::InvalidArg);
    argument.is_some_and(|argument| argument.to_string().starts_with('-'))
}

fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|char| !char.is_control()).collect()
}
