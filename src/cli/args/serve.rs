//! Flags of `markread serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{
    ExpectedArgs, RedisArgs, address, bytes, duration_or_zero, integer, positive_duration, switch,
};
use crate::domain::CALL_USER_OBJECTS_MAX_BYTES;
use crate::edge::ReflectionAccess;
use crate::telemetry::LogFormat;

#[derive(Args)]
#[command(next_line_help = true)]
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "clap prints these texts unchanged")]
pub(in crate::cli) struct ServeArgs {
    /// Keep everything in memory and take the caller from the metadata x-user-id: no Redis, no
    /// tokens, loopback only
    #[arg(long, env = "MARKREAD_DEV", hide_env_values = true)]
    #[arg(value_parser = switch)]
    pub(in crate::cli) dev: bool,

    /// Address and port of gRPC and of plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", value_parser = address)]
    #[arg(env = "MARKREAD_LISTEN", hide_env_values = true)]
    pub(in crate::cli) listen: SocketAddr,

    /// Address and port of /metrics, /livez and /readyz, plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464", value_parser = address)]
    #[arg(env = "MARKREAD_OPS_LISTEN", hide_env_values = true)]
    pub(in crate::cli) ops_listen: SocketAddr,

    /// URL of Redis: redis://, rediss:// or unix://; repeatable, for several Sentinels or nodes of a
    /// cluster [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL", env = "MARKREAD_REDIS_URL", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) redis_url: Vec<String>,

    #[command(flatten)]
    pub(in crate::cli) redis: RedisArgs,

    /// Calls served to a reader in a window
    #[arg(long, value_name = "CALLS", default_value_t = 1000)]
    #[arg(value_parser = integer::<u64>(1..=999_999_999_999_999))]
    #[arg(env = "MARKREAD_RATE_LIMIT", hide_env_values = true)]
    pub(in crate::cli) rate_limit: u64,

    /// Reads served to a reader in a window: a read, a batch of reads, a page or an opened watch
    #[arg(long, value_name = "CALLS", default_value_t = 10_000)]
    #[arg(value_parser = integer::<u64>(1..=999_999_999_999_999))]
    #[arg(env = "MARKREAD_READ_RATE_LIMIT", hide_env_values = true)]
    pub(in crate::cli) read_rate_limit: u64,

    /// Length of the window of --rate-limit and --read-rate-limit
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_RATE_WINDOW", hide_env_values = true)]
    pub(in crate::cli) rate_window: Duration,

    /// Calls a second from one peer address, against runaway clients; 0 turns the guard off
    #[arg(long, value_name = "CALLS", default_value_t = 100_000)]
    #[arg(value_parser = integer::<u32>(0..=u32::MAX.into()))]
    #[arg(env = "MARKREAD_EDGE_RATE", hide_env_values = true)]
    pub(in crate::cli) edge_rate: u32,

    /// Calls at once from one peer address
    #[arg(long, value_name = "CALLS", default_value_t = 200_000)]
    #[arg(value_parser = integer::<u32>(1..=u32::MAX.into()))]
    #[arg(env = "MARKREAD_EDGE_BURST", hide_env_values = true)]
    pub(in crate::cli) edge_burst: u32,

    /// Unary calls of one reader under way at the same time, two of them pages or batches. Up to 1024
    /// more wait in order; beside them a reader has up to 64 watches. 0 turns these bounds off
    #[arg(long, value_name = "CALLS", default_value_t = 32)]
    #[arg(value_parser = integer::<u32>(0..=1_000_000))]
    #[arg(env = "MARKREAD_READER_CONCURRENCY", hide_env_values = true)]
    pub(in crate::cli) reader_concurrency: u32,

    /// Longest time of a unary call, whatever deadline the caller sent
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_CALL_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) call_timeout: Duration,

    /// Key of the stream of mark-read events in Redis
    #[arg(long, value_name = "KEY", default_value = "direct_message_mark_read_events")]
    #[arg(env = "MARKREAD_STREAM", hide_env_values = true)]
    pub(in crate::cli) stream: String,

    /// Approximate number of entries that the stream is trimmed to; 0 never trims. An entry takes
    /// 0.3 KB in Redis, or 6.4 KB with two user objects of 3 KB
    #[arg(long, value_name = "ENTRIES", default_value_t = 1_000_000)]
    #[arg(value_parser = integer::<u64>(0..=i64::MAX.cast_unsigned()))]
    #[arg(env = "MARKREAD_STREAM_MAXLEN", hide_env_values = true)]
    pub(in crate::cli) stream_maxlen: u64,

    /// Approximate size that the stream is trimmed to, by the measured size of its entries, as in
    /// 2GiB [default: none]
    #[arg(long, value_name = "BYTES", value_parser = bytes(1024 * 1024))]
    #[arg(env = "MARKREAD_STREAM_MAX_BYTES", hide_env_values = true)]
    pub(in crate::cli) stream_max_bytes: Option<u64>,

    /// Prefix of the keys of user objects in Redis, before the user ID; their values, JSON objects,
    /// appear in events, up to 5 s stale
    #[arg(long, value_name = "PREFIX", default_value = "user:")]
    #[arg(env = "MARKREAD_USER_KEY_PREFIX", hide_env_values = true)]
    pub(in crate::cli) user_key_prefix: String,

    /// Largest user object that appears in events; of a larger one only the ID does
    #[arg(long, value_name = "BYTES", default_value = "16384")]
    #[arg(value_parser = user_object_bytes)]
    #[arg(env = "MARKREAD_USER_OBJECT_MAX_BYTES", hide_env_values = true)]
    pub(in crate::cli) user_object_max_bytes: usize,

    /// Replicas that must have a mark before it is answered OK; 0 waits for none [default: 0]
    #[arg(long, value_name = "REPLICAS", env = "MARKREAD_REPLICAS_ACK", hide_env_values = true)]
    #[arg(value_parser = integer::<u32>(0..=u32::MAX.into()))]
    pub(in crate::cli) replicas_ack: Option<u32>,

    /// Answer a mark OK only once Redis has it on its disk (WAITAOF). Needs Redis 7.2 or later with
    /// appendonly yes and appendfsync always
    #[arg(long, env = "MARKREAD_FSYNC_ACK", hide_env_values = true)]
    #[arg(value_parser = switch)]
    pub(in crate::cli) fsync_ack: bool,

    /// Longest wait for the replicas of --replicas-ack, and for the disk of --fsync-ack [default: 100ms]
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_REPLICAS_ACK_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) replicas_ack_timeout: Option<Duration>,

    /// File with the secret of HS256 tokens, at least 32 bytes without one newline at the end
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_SECRET_FILE", hide_env_values = true)]
    pub(in crate::cli) jwt_secret_file: Option<PathBuf>,

    /// File with the PEM public key of RS256, ES256 or EdDSA tokens
    #[arg(long, value_name = "FILE", env = "MARKREAD_JWT_PUBLIC_KEY_FILE", hide_env_values = true)]
    pub(in crate::cli) jwt_public_key_file: Option<PathBuf>,

    /// URL of the JWK set that verifies RS256, ES256 or EdDSA tokens, http:// or https://; fetched
    /// every 5 min, and when a token names an unknown key
    #[arg(long, value_name = "URL", env = "MARKREAD_JWT_JWKS_URL", hide_env_values = true)]
    pub(in crate::cli) jwt_jwks_url: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) expected: ExpectedArgs,

    /// File with the credentials of OAuth 1.0a clients: TOML, a [[credential]] for each token with
    /// consumer_key, consumer_secret, access_token, access_token_secret and user_id, all strings;
    /// reread when it changes
    #[arg(long, value_name = "FILE", env = "MARKREAD_OAUTH1_CREDENTIALS_FILE")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) oauth1_credentials_file: Option<PathBuf>,

    /// Scheme and authority that OAuth 1.0a clients sign, as in https://api.example.com, if a proxy
    /// terminates TLS; repeatable [default: what the request names]
    #[arg(long, value_name = "URL", env = "MARKREAD_PUBLIC_URL", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) public_url: Vec<String>,

    /// File with the server's certificate chain, PEM; reread when it changes, as are --tls-key and
    /// --client-ca
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_CERT", hide_env_values = true)]
    pub(in crate::cli) tls_cert: Option<PathBuf>,

    /// File with the certificate's private key, PEM
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_KEY", hide_env_values = true)]
    pub(in crate::cli) tls_key: Option<PathBuf>,

    /// File with the CAs of client certificates, PEM; a certificate is requested, not required
    #[arg(long, value_name = "FILE", env = "MARKREAD_CLIENT_CA", hide_env_values = true)]
    pub(in crate::cli) client_ca: Option<PathBuf>,

    /// DNS name or URI in the certificate of a client that may name the reader with x-user-id;
    /// repeatable
    #[arg(long, value_name = "SAN", env = "MARKREAD_TRUSTED_CLIENT", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) trusted_client: Vec<String>,

    /// Threads that serve calls, each with a connection to Redis [default: the CPUs of its cgroups' quota,
    /// rounded down, but no more than it may run on, 1 to 16; 1 without a quota]
    #[arg(long, value_name = "THREADS", env = "MARKREAD_WORKER_THREADS", hide_env_values = true)]
    #[arg(value_parser = integer::<u8>(1..=16))]
    pub(in crate::cli) worker_threads: Option<u8>,

    /// Open connections; one more is closed at once
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 10_000)]
    #[arg(value_parser = integer::<u32>(1..=1_000_000))]
    #[arg(env = "MARKREAD_MAX_CONNECTIONS", hide_env_values = true)]
    pub(in crate::cli) max_connections: u32,

    /// Open connections from one peer address; 0 turns the bound off
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 2500)]
    #[arg(value_parser = integer::<u32>(0..=1_000_000))]
    #[arg(env = "MARKREAD_MAX_CONNECTIONS_PER_PEER", hide_env_values = true)]
    pub(in crate::cli) max_connections_per_peer: u32,

    /// Concurrent streams of an HTTP/2 connection
    #[arg(long, value_name = "STREAMS", default_value_t = 256)]
    #[arg(value_parser = integer::<u32>(1..=65_536))]
    #[arg(env = "MARKREAD_MAX_CONCURRENT_STREAMS", hide_env_values = true)]
    pub(in crate::cli) max_concurrent_streams: u32,

    /// Longest time for the TLS handshake, from there to the first bytes of HTTP, and for the head of each
    /// HTTP/1.1 request
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_HANDSHAKE_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) handshake_timeout: Duration,

    /// Silence after which an HTTP/2 client is pinged
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_KEEPALIVE_INTERVAL", hide_env_values = true)]
    pub(in crate::cli) keepalive_interval: Duration,

    /// Longest wait for the answer to that ping before the connection is closed
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = positive_duration)]
    #[arg(env = "MARKREAD_KEEPALIVE_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) keepalive_timeout: Duration,

    /// Age at which a connection gets GOAWAY, give or take a tenth, so that clients spread over new
    /// replicas. 0s is never
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_MAX_CONNECTION_AGE", hide_env_values = true)]
    pub(in crate::cli) max_connection_age: Duration,

    /// After that, how long calls in flight may finish before the connection is closed; watches end with
    /// the ID to resume from
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_MAX_CONNECTION_AGE_GRACE", hide_env_values = true)]
    pub(in crate::cli) max_connection_age_grace: Duration,

    /// How long an HTTP/2 connection may be without a call, though it answers pings. 0s is for ever
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_IDLE_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) idle_timeout: Duration,

    /// How long an HTTP/1.1 connection may be without a request: longer than the idle time of a balancer in
    /// front. 0s is for ever
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_HTTP_IDLE_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) http_idle_timeout: Duration,

    /// How long an answer may wait for a client that does not read, before it is ended. 0s is for ever
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_SEND_TIMEOUT", hide_env_values = true)]
    pub(in crate::cli) send_timeout: Duration,

    /// Memory that the process may use, as in 512MiB: near it, calls are refused and what holds most is
    /// ended [default: the least limit of its cgroups, else none]
    #[arg(long, value_name = "BYTES", value_parser = bytes(64 * 1024 * 1024))]
    #[arg(env = "MARKREAD_MEMORY_LIMIT", hide_env_values = true)]
    pub(in crate::cli) memory_limit: Option<u64>,

    /// Server reflection: for everyone, for nobody, or for authenticated callers
    #[arg(long, value_name = "ACCESS", default_value = "on")]
    #[arg(env = "MARKREAD_REFLECTION", hide_env_values = true)]
    pub(in crate::cli) reflection: ReflectionAccess,

    /// After SIGTERM, how long calls are still accepted while readiness is off
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_DRAIN_DELAY", hide_env_values = true)]
    pub(in crate::cli) drain_delay: Duration,

    /// After that, how long calls in flight may finish
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration_or_zero)]
    #[arg(env = "MARKREAD_DRAIN", hide_env_values = true)]
    pub(in crate::cli) drain: Duration,

    /// Format of log lines [default: text on a terminal, else json]. RUST_LOG sets the level
    #[arg(long, value_name = "FORMAT", env = "MARKREAD_LOG_FORMAT", hide_env_values = true)]
    pub(in crate::cli) log_format: Option<LogFormat>,
}

/// Parses the size of user objects: at least an object with an ID, at most what a call may carry.
fn user_object_bytes(text: &str) -> Result<usize, String> {
    let bytes = bytes(64)(text)?;
    let size = usize::try_from(bytes).ok().filter(|bytes| *bytes <= CALL_USER_OBJECTS_MAX_BYTES);
    size.ok_or_else(|| format!("it must be at most {CALL_USER_OBJECTS_MAX_BYTES} bytes"))
}
