//! `markread`: arguments become one command.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use markread::cli::commands::ask;
use markread::cli::commands::healthcheck::healthcheck;
use markread::cli::config::{self, Command, ServeConfig, Stop, TokenConfig};
use markread::cli::serve::{self, ServeError};
use markread::identity::jwt;
use markread::telemetry::{self, Traces};
use mimalloc::MiMalloc;
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long tasks that block, such as a name's resolution, may hold the exit up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    // One crypto backend, for TLS and tokens alike. Only a second installation fails.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match config::parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => serve(*config),
        Ok(Command::Token(config)) => token(config),
        Ok(Command::Ask(config, ask, expected)) => {
            client(ask::ask(*config, ask, expected, |line| writeln!(stdout(), "{line}")))
        }
        Ok(Command::Healthcheck(config)) => client(healthcheck(config)),
        Err(Stop::Said(text)) => say(text.trim_end()),
        Err(Stop::Usage(problem)) => stop(2, problem),
    }
}

fn serve(mut config: ServeConfig) -> ExitCode {
    let runtime = match runtime_of(config.worker_threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return stop(1, error),
    };
    let traces = config.traces.take().map(|traces| {
        let _within = runtime.enter();
        Traces::start(traces)
    });
    let traces = match traces.transpose() {
        Ok(traces) => traces,
        Err(error) => return stop(2, format!("OTEL_EXPORTER_OTLP_*: {error}")),
    };
    telemetry::init(config.log_format, traces.as_ref());
    let served = runtime.block_on(serve::serve(config));
    // Behind the drain, while there is a runtime to send by, which has to be run meanwhile.
    if let Some(traces) = traces {
        let _ = runtime.block_on(runtime.spawn_blocking(|| traces.flush()));
    }
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(mismatch @ ServeError::Layout(_)) => stop(2, mismatch),
        Err(failed @ ServeError::Failed(_)) => stop(1, failed),
    }
}

/// One thread needs no scheduler that hands work from one to another.
fn runtime_of(threads: usize) -> Builder {
    if threads == 1 {
        return Builder::new_current_thread();
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads);
    builder
}

fn client(asked: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return stop(1, error),
    };
    match runtime.block_on(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => stop(1, problem),
    }
}

fn token(config: TokenConfig) -> ExitCode {
    let TokenConfig { user, secret, ttl, output, expected } = config;
    match (jwt::issue(user, &secret, ttl, expected), output) {
        (Ok(token), None) => say(&token),
        (Ok(token), Some(file)) => match write_secret(&file, &token) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => stop(1, format!("--output {}: {error}", file.display())),
        },
        (Err(error), _) => stop(1, error),
    }
}

/// Writes a line to a file that only its owner may read.
fn write_secret(file: &Path, secret: &str) -> io::Result<()> {
    // One that is there may be readable to others, and would stay so.
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{secret}")
}

fn say(text: &str) -> ExitCode {
    match writeln!(stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn stop(status: u8, problem: impl Display) -> ExitCode {
    // Where standard error is closed, the exit status has to do.
    let _ = writeln!(stderr(), "markread: {problem}");
    ExitCode::from(status)
}
