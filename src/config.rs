//! The only reader of flags and environment: parses, validates, and says what is wrong in one line.
//!
//! Every option is a flag and an environment variable `MARKREAD_<FLAG>`: CONTRACT section 3.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand};
use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::edge::EdgeConfig;
use crate::edge_guard::EdgeRate;
use crate::identity::Identity;
use crate::identity::jwt::{Expected, Secret, Verifier};
use crate::ids::UserId;
use crate::listener::Limits;
use crate::mark_read::RateLimit;
use crate::store::redis::{RedisConfig, ReplicasAck};
use crate::telemetry::LogFormat;

const DEFAULT_REDIS_URL: &str = "redis://127.0.0.1:6379";
const DEFAULT_REPLICAS_ACK_TIMEOUT: Duration = Duration::from_millis(100);

/// No duration is longer: clocks can count that far.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<ServeConfig>),
    /// Print a signed token.
    Token(TokenConfig),
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
    /// Where gRPC is served.
    pub listen: SocketAddr,
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
    /// How log lines look; none means by where they go.
    pub log_format: Option<LogFormat>,
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
    };
    command.map_err(|problem| Stop::Usage(one_line(&problem)))
}

/// clap's error as one line: its first paragraph, without the usage that follows.
fn stop(error: &clap::Error) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Said(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Stop::Usage("a command is missing: serve or token (--help says more)".to_owned())
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

/// Read state for direct messages, as a service.
#[derive(Parser)]
#[command(name = "markread", version = version())]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("MARKREAD_REVISION"), ")")
}

#[derive(Subcommand)]
enum CliCommand {
    /// Serves gRPC on Redis, or with --dev on an embedded store.
    Serve(Box<ServeArgs>),
    /// Prints a signed JWT (HS256) for development.
    Token(TokenArgs),
}

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, reason = "clap prints these texts as they stand")]
struct ServeArgs {
    /// Keep everything in memory and take the caller from the metadata x-user-id: no Redis, no
    /// tokens, loopback only
    #[arg(long, env = "MARKREAD_DEV", hide_env_values = true)]
    dev: bool,

    /// Address and port of gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", value_parser = address)]
    #[arg(env = "MARKREAD_LISTEN", hide_env_values = true)]
    listen: SocketAddr,

    /// Address and port of /metrics, /livez and /readyz, plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464", value_parser = address)]
    #[arg(env = "MARKREAD_OPS_LISTEN", hide_env_values = true)]
    ops_listen: SocketAddr,

    /// Where Redis is: redis://, rediss:// or unix:// [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL", env = "MARKREAD_REDIS_URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// Calls served to a reader in a window
    #[arg(long, value_name = "CALLS", default_value_t = 1000)]
    #[arg(value_parser = whole_number::<u64>(1..=999_999_999_999_999))]
    #[arg(env = "MARKREAD_RATE_LIMIT", hide_env_values = true)]
    rate_limit: u64,

    /// Length of the window of --rate-limit
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_RATE_WINDOW", hide_env_values = true)]
    rate_window: Duration,

    /// Calls a second from one peer address, against runaway clients; 0 turns the guard off
    #[arg(long, value_name = "CALLS", default_value_t = 100_000)]
    #[arg(value_parser = whole_number::<u32>(0..=u32::MAX.into()))]
    #[arg(env = "MARKREAD_EDGE_RATE", hide_env_values = true)]
    edge_rate: u32,

    /// Calls at once from one peer address
    #[arg(long, value_name = "CALLS", default_value_t = 200_000)]
    #[arg(value_parser = whole_number::<u32>(1..=u32::MAX.into()))]
    #[arg(env = "MARKREAD_EDGE_BURST", hide_env_values = true)]
    edge_burst: u32,

    /// Longest time that a call may take, whatever deadline the caller sent
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_CALL_TIMEOUT", hide_env_values = true)]
    call_timeout: Duration,

    /// Key of the stream of mark-read events in Redis
    #[arg(long, value_name = "KEY", default_value = "direct_message_mark_read_events")]
    #[arg(env = "MARKREAD_STREAM", hide_env_values = true)]
    stream: String,

    /// Entries that the stream is trimmed to, roughly; 0 never trims. An entry costs Redis 0.3 KB,
    /// or 6.4 KB with two user objects of 3 KB
    #[arg(long, value_name = "ENTRIES", default_value_t = 1_000_000)]
    #[arg(value_parser = whole_number::<u64>(0..=i64::MAX.cast_unsigned()))]
    #[arg(env = "MARKREAD_STREAM_MAXLEN", hide_env_values = true)]
    stream_maxlen: u64,

    /// Replicas that must have a mark before it is answered OK; 0 waits for none [default: 0]
    #[arg(long, value_name = "REPLICAS", env = "MARKREAD_REPLICAS_ACK", hide_env_values = true)]
    #[arg(value_parser = whole_number::<u32>(0..=u32::MAX.into()))]
    replicas_ack: Option<u32>,

    /// How long the replicas of --replicas-ack are waited for [default: 100ms]
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_REPLICAS_ACK_TIMEOUT", hide_env_values = true)]
    replicas_ack_timeout: Option<Duration>,

    /// File with the secret of HS256 tokens, at least 32 bytes; one newline at its end is not part
    /// of it
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_SECRET_FILE", hide_env_values = true)]
    jwt_secret_file: Option<PathBuf>,

    /// File with the PEM public key of RS256, ES256 or EdDSA tokens
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_PUBLIC_KEY_FILE", hide_env_values = true)]
    jwt_public_key_file: Option<PathBuf>,

    #[command(flatten)]
    expected: ExpectedArgs,

    /// Open connections; one more is closed at once
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 10_000)]
    #[arg(value_parser = whole_number::<u32>(1..=1_000_000))]
    #[arg(env = "MARKREAD_MAX_CONNECTIONS", hide_env_values = true)]
    max_connections: u32,

    /// Concurrent streams of an HTTP/2 connection
    #[arg(long, value_name = "STREAMS", default_value_t = 256)]
    #[arg(value_parser = whole_number::<u32>(1..=65_536))]
    #[arg(env = "MARKREAD_MAX_CONCURRENT_STREAMS", hide_env_values = true)]
    max_concurrent_streams: u32,

    /// Longest time from a connection to its first bytes of HTTP
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_HANDSHAKE_TIMEOUT", hide_env_values = true)]
    handshake_timeout: Duration,

    /// Silence after which an HTTP/2 client is pinged
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_KEEPALIVE_INTERVAL", hide_env_values = true)]
    keepalive_interval: Duration,

    /// How long that ping may stay unanswered before the connection is closed
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_KEEPALIVE_TIMEOUT", hide_env_values = true)]
    keepalive_timeout: Duration,

    /// Age at which a connection is told to go, give or take a tenth, so that clients spread over
    /// new replicas; calls under way finish. 0s never
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    #[arg(env = "MARKREAD_MAX_CONNECTION_AGE", hide_env_values = true)]
    max_connection_age: Duration,

    /// After SIGTERM, how long calls are still taken while readiness is off
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    #[arg(env = "MARKREAD_DRAIN_DELAY", hide_env_values = true)]
    drain_delay: Duration,

    /// After that, how long calls under way are waited for
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    #[arg(env = "MARKREAD_DRAIN", hide_env_values = true)]
    drain: Duration,

    /// How log lines look [default: text on a terminal, else json]. RUST_LOG sets the level
    #[arg(long, value_name = "FORMAT", env = "MARKREAD_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct TokenArgs {
    /// User ID that the token is for
    #[arg(long, value_name = "ID", env = "MARKREAD_USER", hide_env_values = true)]
    user: String,

    /// File with the secret, as of serve
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_SECRET_FILE", hide_env_values = true)]
    jwt_secret_file: PathBuf,

    /// How long the token holds
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_TTL", hide_env_values = true)]
    ttl: Duration,

    #[command(flatten)]
    expected: ExpectedArgs,
}

#[derive(Args)]
struct ExpectedArgs {
    /// Issuer (iss) of tokens
    #[arg(long, value_name = "TEXT", env = "MARKREAD_JWT_ISSUER", hide_env_values = true)]
    jwt_issuer: Option<String>,

    /// Audience (aud) of tokens
    #[arg(long, value_name = "TEXT", env = "MARKREAD_JWT_AUDIENCE", hide_env_values = true)]
    jwt_audience: Option<String>,
}

impl ServeArgs {
    fn validate(self) -> Result<ServeConfig, String> {
        if self.dev {
            self.refuse_what_dev_excludes()?;
        }
        let identity = self.identity()?;
        let backend = self.backend()?;
        let rate = self.edge_rate;
        let edge_rate = (rate > 0).then_some(EdgeRate { rate, burst: self.edge_burst });
        let age = self.max_connection_age;
        Ok(ServeConfig {
            listen: self.listen,
            ops_listen: self.ops_listen,
            backend,
            edge: EdgeConfig { call_timeout: self.call_timeout, edge_rate, identity },
            limits: Limits {
                connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
                streams: self.max_concurrent_streams,
                handshake: self.handshake_timeout,
                keepalive_interval: self.keepalive_interval,
                keepalive_timeout: self.keepalive_timeout,
                connection_age: (!age.is_zero()).then_some(age),
            },
            drain_delay: self.drain_delay,
            drain: self.drain,
            log_format: self.log_format,
        })
    }

    /// `--dev` has no Redis and no credentials, and must not be reached from elsewhere.
    fn refuse_what_dev_excludes(&self) -> Result<(), String> {
        let settings = [
            ("--redis-url", self.redis_url.is_some()),
            ("--replicas-ack", self.replicas_ack.is_some()),
            ("--replicas-ack-timeout", self.replicas_ack_timeout.is_some()),
            ("--jwt-secret-file", self.jwt_secret_file.is_some()),
            ("--jwt-public-key-file", self.jwt_public_key_file.is_some()),
            ("--jwt-issuer", self.expected.jwt_issuer.is_some()),
            ("--jwt-audience", self.expected.jwt_audience.is_some()),
        ];
        for (flag, set) in settings {
            if set {
                return Err(format!("{flag} does not go with --dev: leave one of them out"));
            }
        }
        for (flag, address) in [("--listen", self.listen), ("--ops-listen", self.ops_listen)] {
            if !address.ip().is_loopback() {
                return Err(format!(
                    "{flag} {address} is not loopback, and --dev knows no credentials: \
                     take 127.0.0.1 or [::1]"
                ));
            }
        }
        Ok(())
    }

    fn identity(&self) -> Result<Identity, String> {
        let expected = self.expected.expected();
        match (self.dev, &self.jwt_secret_file, &self.jwt_public_key_file) {
            (true, ..) => Ok(Identity::Dev),
            (false, Some(_), Some(_)) => {
                Err("--jwt-secret-file and --jwt-public-key-file are two ways to verify tokens: \
                 take one"
                    .to_owned())
            }
            (false, Some(file), None) => {
                let secret = read_secret(file)?;
                Ok(Identity::Bearer(Box::new(Verifier::with_secret(&secret, &expected))))
            }
            (false, None, Some(file)) => {
                let pem = read("--jwt-public-key-file", file)?;
                let verifier = Verifier::with_public_key(&pem, &expected)
                    .map_err(|problem| about("--jwt-public-key-file", file, &problem))?;
                Ok(Identity::Bearer(Box::new(verifier)))
            }
            (false, None, None) => {
                Err("no way to authenticate callers is configured: set --jwt-secret-file or \
                 --jwt-public-key-file, or try things out with --dev"
                    .to_owned())
            }
        }
    }

    fn backend(&self) -> Result<Backend, String> {
        let window_ms = u64::try_from(self.rate_window.as_millis()).unwrap_or(u64::MAX);
        let rate_limit = RateLimit { calls: self.rate_limit, window_ms };
        if self.dev {
            let stream_max_entries = usize::try_from(self.stream_maxlen).unwrap_or(usize::MAX);
            return Ok(Backend::Memory { rate_limit, stream_max_entries });
        }
        // Neither the URL nor the parser's words are repeated: there may be a password in them.
        let address =
            self.redis_url.as_deref().unwrap_or(DEFAULT_REDIS_URL).into_connection_info().map_err(
                |_| {
                    "--redis-url is no URL of a Redis: it takes redis://host:port, \
                          rediss://host:port or unix:///path"
                },
            )?;
        if let ConnectionAddr::TcpTls { insecure: true, .. } = address.addr() {
            return Err(
                "--redis-url ends in #insecure: certificates are always verified, leave it \
                        out"
                .to_owned(),
            );
        }
        if self.stream.is_empty() {
            return Err("--stream is empty: it takes the name of a key".to_owned());
        }
        Ok(Backend::Redis(Box::new(RedisConfig {
            address,
            stream: self.stream.clone(),
            stream_maxlen: self.stream_maxlen,
            rate_limit,
            replicas_ack: self.replicas_ack()?,
        })))
    }

    fn replicas_ack(&self) -> Result<Option<ReplicasAck>, String> {
        let replicas = self.replicas_ack.unwrap_or(0);
        let timeout = self.replicas_ack_timeout.unwrap_or(DEFAULT_REPLICAS_ACK_TIMEOUT);
        if replicas > 0 && timeout >= self.call_timeout {
            return Err(format!(
                "--replicas-ack-timeout {} is not shorter than --call-timeout {}: a call would \
                 end before the replicas are counted",
                humantime::format_duration(timeout),
                humantime::format_duration(self.call_timeout),
            ));
        }
        Ok((replicas > 0).then_some(ReplicasAck { replicas, timeout }))
    }
}

impl TokenArgs {
    fn validate(self) -> Result<TokenConfig, String> {
        Ok(TokenConfig {
            user: self.user.parse().map_err(|problem| format!("--user {problem}"))?,
            secret: read_secret(&self.jwt_secret_file)?,
            ttl: self.ttl,
            expected: self.expected.expected(),
        })
    }
}

impl ExpectedArgs {
    fn expected(&self) -> Expected {
        Expected { issuer: self.jwt_issuer.clone(), audience: self.jwt_audience.clone() }
    }
}

fn read_secret(file: &Path) -> Result<Secret, String> {
    const FLAG: &str = "--jwt-secret-file";
    Secret::from_file_contents(read(FLAG, file)?).map_err(|problem| about(FLAG, file, &problem))
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    let contents =
        fs::read(file).map_err(|error| about(flag, file, &format!("cannot be read: {error}")))?;
    if contents.is_empty() {
        return Err(about(flag, file, "is empty"));
    }
    Ok(contents)
}

fn about(flag: &str, file: &Path, problem: &str) -> String {
    format!("{flag} {} {problem}", file.display())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let form = "it takes an IP address and a port, as in 127.0.0.1:50051 or [::]:50051";
    text.parse().map_err(|_| form.to_owned())
}

fn whole_number<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| {
            format!("it takes a whole number from {} to {}", range.start(), range.end())
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let form = "it takes a number and a unit, as in 500ms, 20s, 15m or 1h";
    let duration = humantime::parse_duration(text).map_err(|_| form.to_owned())?;
    if duration > DURATION_MAX {
        return Err("it takes at most 365 days".to_owned());
    }
    Ok(duration)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        shorter if shorter < Duration::from_millis(1) => Err("it takes at least 1ms".to_owned()),
        duration => Ok(duration),
    }
}
