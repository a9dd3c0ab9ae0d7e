//! The command line: reads flags and environment, which no other room does, and runs the commands.
//!
//! Every option is a flag and an environment variable `MARKREAD_<FLAG>` (`docs/configuration.md`).

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use tokio::runtime::{Builder, Runtime};
use tonic::Code;

use self::args::CliCommand;
use self::commands::admin::{self, AdminCommand};
use self::commands::client::{self, ClientCommand};
use self::commands::healthcheck::{HealthcheckConfig, healthcheck};
use self::commands::{token, webhook};
use self::config::{RelaySettings, ServeConfig, TokenConfig, WebhookRun};
use self::serve::ServeError;
use crate::client::ClientConfig;
use crate::net::cpus::WorkerCount;
use crate::net::workers::WorkerThreads;
use crate::store::redis::{AdminError, RedisMode};
use crate::telemetry::{self, LogFormat, Traces, TracesConfig};

mod args;
mod commands;
pub mod config;
#[doc(hidden)]
pub mod fuzzing;
mod relay;
pub mod serve;
mod signals;
mod start;

/// Longest time that blocking tasks, such as a name lookup, may delay the exit.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// A command with its settings.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<ServeConfig>),
    /// Print a signed token.
    Token(TokenConfig),
    /// Call a server as a client, and expect this status.
    Client(Box<ClientConfig>, ClientCommand, Code),
    /// Read or change what is in Redis.
    Admin(Box<RedisMode>, AdminCommand),
    /// Deliver events to webhooks.
    Relay(Box<RelaySettings>),
    /// Manage webhooks, or receive events.
    Webhook(WebhookRun),
    /// Check that a server is serving.
    Healthcheck(HealthcheckConfig),
}

/// Why the process exits without running a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Help or version was requested: this text, exit status 0.
    Help(String),
    /// A setting is invalid: this line, exit status 2.
    Usage(String),
}

/// Runs the command of a command line, and returns the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse(args) {
        Ok(Command::Serve(config)) => serve(*config),
        Ok(Command::Token(config)) => match token::run(config) {
            Ok(Some(token)) => print(&token),
            Ok(None) => ExitCode::SUCCESS,
            Err(problem) => fail(1, problem),
        },
        Ok(Command::Client(config, command, expected)) => {
            call(client::run(*config, command, expected, |line| print_line(line)))
        }
        Ok(Command::Admin(mode, command)) => operate(admin::run(&mode, command, print_line)),
        Ok(Command::Relay(config)) => relay(*config),
        Ok(Command::Webhook(WebhookRun::Command(redis, command))) => {
            operate(webhook::run(*redis, command, print_line))
        }
        Ok(Command::Webhook(WebhookRun::Receive(config))) => call(webhook::receive(config)),
        Ok(Command::Healthcheck(config)) => call(healthcheck(config)),
        Err(Exit::Help(text)) => print(text.trim_end()),
        Err(Exit::Usage(problem)) => fail(2, problem),
    }
}

/// Reads the command line and the environment.
///
/// # Errors
///
/// [`Exit`], if no command is to be run.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
    let args: Vec<_> = args.into_iter().collect();
    let cli = args::parse(&args).map_err(|error| exit(&error))?;
    let command = match cli.command {
        CliCommand::Serve(args) => args.validate().map(|config| Command::Serve(Box::new(config))),
        CliCommand::Token(args) => args.validate().map(Command::Token),
        CliCommand::Mark(args) => args.validate(),
        CliCommand::State(args) => args.validate(),
        CliCommand::Watch(args) => args.validate(),
        CliCommand::Admin(args) => {
            args.validate().map(|(mode, command)| Command::Admin(Box::new(mode), command))
        }
        CliCommand::Relay(args) => args.validate().map(|config| Command::Relay(Box::new(config))),
        CliCommand::Webhook(args) => args.validate().map(Command::Webhook),
        CliCommand::Healthcheck(args) => args.validate(),
    };
    command.map_err(|problem| Exit::Usage(one_line(&problem)))
}

fn serve(mut config: ServeConfig) -> ExitCode {
    // The control runtime: accepts connections, probes Redis, reads the event log, waits for signals.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, error),
    };
    let count = WorkerCount::find(config.worker_threads);
    let threads = match WorkerThreads::start(count.threads) {
        Ok(threads) => threads,
        Err(error) => return fail(1, error),
    };
    let traces = std::mem::replace(&mut config.traces, Ok(None));
    let traces = start_telemetry(&runtime, config.log_format, traces);
    let served = runtime.block_on(serve::serve(config, count, threads.workers()));
    flush(&runtime, traces);
    threads.stop(SHUTDOWN_TIMEOUT);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit_status(served)
}

fn relay(mut settings: RelaySettings) -> ExitCode {
    // Deliveries wait for receivers most of the time: any thread continues any of them, and all share one
    // connection to Redis.
    let count = WorkerCount::find(None);
    let threads = Builder::new_multi_thread().worker_threads(count.threads).enable_all().build();
    let runtime = match threads {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, error),
    };
    let traces = std::mem::replace(&mut settings.traces, Ok(None));
    let traces = start_telemetry(&runtime, settings.log_format, traces);
    let relayed = runtime.block_on(relay::relay(settings, count));
    flush(&runtime, traces);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit_status(relayed)
}

/// Starts logs, and traces if there is a collector.
fn start_telemetry(
    runtime: &Runtime,
    format: Option<LogFormat>,
    settings: Result<Option<TracesConfig>, String>,
) -> Option<Traces> {
    let traces = settings.and_then(|settings| {
        let _entered = runtime.enter();
        let traces = settings.map(Traces::start).transpose();
        traces.map_err(|error| format!("OTEL_EXPORTER_OTLP_*: {error}"))
    });
    telemetry::init(format, traces.as_ref().ok().and_then(Option::as_ref));
    traces.unwrap_or_else(|problem| {
        tracing::warn!(problem, "calls are not traced");
        None
    })
}

/// Sends the last spans. After the drain, while the runtime can still send.
fn flush(runtime: &Runtime, traces: Option<Traces>) {
    if let Some(traces) = traces {
        let _ = runtime.block_on(runtime.spawn_blocking(|| traces.flush()));
    }
}

fn exit_status(ended: Result<(), ServeError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(mismatch @ ServeError::Layout(_)) => fail(2, mismatch),
        Err(failed @ ServeError::Failed(_)) => fail(1, failed),
    }
}

fn call(call: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, error),
    };
    match runtime.block_on(call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(1, problem),
    }
}

/// Runs a command that operates on Redis.
fn operate(command: impl Future<Output = Result<(), AdminError>>) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, error),
    };
    match runtime.block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(if error.is_layout() { 2 } else { 1 }, error),
    }
}

fn print_line(line: impl Display) -> io::Result<()> {
    writeln!(stdout(), "{line}")
}

fn print(text: &str) -> ExitCode {
    match writeln!(stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format!("output failed: {error}")),
    }
}

fn fail(status: u8, problem: impl Display) -> ExitCode {
    // If standard error is closed, the exit status has to do.
    let _ = writeln!(stderr(), "markread: {problem}");
    ExitCode::from(status)
}

/// Turns clap's error into one line: its first paragraph, without the usage that follows.
fn exit(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Help(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            if text.contains("markread webhook") {
                return Exit::Usage(
                    "a command of webhook is missing: it must be subscribe, unsubscribe, list, check, \
                     redeliver or receive (see --help)"
                        .to_owned(),
                );
            }
            if text.contains("markread admin") {
                return Exit::Usage(
                    "a command of admin is missing: it must be cursors, set, erase, export, \
                     import, move, upgrade-layout or downgrade-layout (see --help)"
                        .to_owned(),
                );
            }
            Exit::Usage(
                "a command is missing: it must be serve, token, mark, state, watch, admin, relay, \
                 webhook or healthcheck (see --help)"
                    .to_owned(),
            )
        }
        // The argument is not quoted: it may be a URL with a password, meant for --redis-url.
        ErrorKind::UnknownArgument if !names_an_option(error) => Exit::Usage(
            "unexpected argument: it is neither an option nor an option's value (see --help)"
                .to_owned(),
        ),
        ErrorKind::InvalidUtf8 => {
            let name = variable_that_is_not_utf8().unwrap_or_else(|| "a flag".to_owned());
            Exit::Usage(format!("{name} is not UTF-8 text: its value must be UTF-8"))
        }
        kind => {
            let problem = text.split("\n\nUsage:").next().unwrap_or_default();
            let problem = problem.split("\n\nFor more").next().unwrap_or_default();
            let problem = one_line(problem.trim_start_matches("error: "));
            Exit::Usage(match kind {
                ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
                    format!("{problem} (see --help)")
                }
                _ => problem,
            })
        }
    }
}

/// clap does not say which value is not UTF-8.
fn variable_that_is_not_utf8() -> Option<String> {
    let invalid = std::env::vars_os().filter(|(_, value)| value.to_str().is_none());
    invalid
        .filter_map(|(name, _)| name.into_string().ok())
        .find(|name| name.starts_with("MARKREAD_"))
}

fn names_an_option(error: &clap::Error) -> bool {
    let argument = error.get(ContextKind::InvalidArg);
    argument.is_some_and(|argument| argument.to_string().starts_with('-'))
}

fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|char| !char.is_control()).collect()
}
