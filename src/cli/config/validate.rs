//! Validates what clap parsed: settings, or what is wrong with them.

use std::path::Path;
use std::time::Duration;

use super::redis::{check_stream, redis_mode};
use super::traces;
use super::{Backend, ServeConfig, TokenConfig};
use crate::cli::args::{ExpectedArgs, ServeArgs, TokenArgs};
use crate::domain::RateLimit;
use crate::edge::EdgeConfig;
use crate::edge::guard::EdgeRate;
use crate::files::{problem, read};
use crate::identity::jwt::{ExpectedClaims, Secret};
use crate::net::listener::Limits;
use crate::store::redis::{Access, Ack, RedisConfig};

const DEFAULT_REPLICAS_ACK_TIMEOUT: Duration = Duration::from_millis(100);

impl ServeArgs {
    pub(in crate::cli) fn validate(self) -> Result<ServeConfig, String> {
        if self.dev {
            self.refuse_what_dev_excludes()?;
        }
        let identity = self.identity()?;
        let tls = self.tls()?;
        let backend = self.backend()?;
        let rate = self.edge_rate;
        let edge_rate = (rate > 0).then_some(EdgeRate { rate, burst: self.edge_burst });
        let age = self.max_connection_age;
        Ok(ServeConfig {
            listen: self.listen,
            ops_listen: self.ops_listen,
            tls,
            backend,
            edge: EdgeConfig {
                call_timeout: self.call_timeout,
                edge_rate,
                identity,
                reflection: self.reflection,
                reader_concurrency: (self.reader_concurrency > 0)
                    .then_some(self.reader_concurrency),
            },
            limits: Limits {
                connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
                connections_per_peer: (self.max_connections_per_peer > 0)
                    .then(|| usize::try_from(self.max_connections_per_peer).unwrap_or(usize::MAX)),
                streams: self.max_concurrent_streams,
                handshake: self.handshake_timeout,
                keepalive_interval: self.keepalive_interval,
                keepalive_timeout: self.keepalive_timeout,
                connection_age: (!age.is_zero()).then_some(age),
                connection_age_grace: self.max_connection_age_grace,
                idle: (!self.idle_timeout.is_zero()).then_some(self.idle_timeout),
                http1_idle: (!self.http_idle_timeout.is_zero()).then_some(self.http_idle_timeout),
                send: (!self.send_timeout.is_zero()).then_some(self.send_timeout),
            },
            memory_limit: self.memory_limit,
            drain_delay: self.drain_delay,
            drain: self.drain,
            worker_threads: self.worker_threads.map(usize::from),
            log_format: self.log_format,
            traces: traces::read(&|name| std::env::var_os(name)),
        })
    }

    /// `--dev` has no Redis and no credentials, and must not be reachable from other machines.
    fn refuse_what_dev_excludes(&self) -> Result<(), String> {
        let others = [
            ("--redis-url", !self.redis_url.is_empty()),
            ("--replicas-ack", self.replicas_ack.is_some()),
            ("--fsync-ack", self.fsync_ack),
            ("--replicas-ack-timeout", self.replicas_ack_timeout.is_some()),
            ("--jwt-secret-file", self.jwt_secret_file.is_some()),
            ("--jwt-public-key-file", self.jwt_public_key_file.is_some()),
            ("--jwt-jwks-url", self.jwt_jwks_url.is_some()),
            ("--jwt-issuer", self.expected.jwt_issuer.is_some()),
            ("--jwt-audience", self.expected.jwt_audience.is_some()),
            ("--oauth1-credentials-file", self.oauth1_credentials_file.is_some()),
            ("--public-url", !self.public_url.is_empty()),
            ("--client-ca", self.client_ca.is_some()),
            ("--trusted-client", !self.trusted_client.is_empty()),
        ];
        for (flag, set) in self.redis.flags().chain(others) {
            if set {
                return Err(format!("{flag} and --dev are both set: remove one"));
            }
        }
        for (flag, address) in [("--listen", self.listen), ("--ops-listen", self.ops_listen)] {
            if !address.ip().is_loopback() {
                return Err(format!(
                    "{flag} {address} is not a loopback address, and --dev has no credentials: it must be \
                     127.0.0.1 or [::1]"
                ));
            }
        }
        Ok(())
    }

    fn backend(&self) -> Result<Backend, String> {
        let window_ms = u64::try_from(self.rate_window.as_millis()).unwrap_or(u64::MAX);
        let rate_limit = RateLimit { calls: self.rate_limit, window_ms };
        let read_rate_limit = RateLimit { calls: self.read_rate_limit, window_ms };
        if self.dev {
            let stream_max_entries = usize::try_from(self.stream_maxlen).unwrap_or(usize::MAX);
            let stream_max_bytes =
                self.stream_max_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            return Ok(Backend::Memory {
                rate_limit,
                read_rate_limit,
                stream_max_entries,
                stream_max_bytes,
            });
        }
        let mode = redis_mode(&self.redis_url, &self.redis)?;
        check_stream(&mode, &self.stream)?;
        Ok(Backend::Redis(Box::new(RedisConfig {
            mode,
            stream: self.stream.clone(),
            stream_maxlen: self.stream_maxlen,
            stream_max_bytes: self.stream_max_bytes,
            user_key_prefix: self.user_key_prefix.clone(),
            user_object_max_bytes: self.user_object_max_bytes,
            rate_limit,
            read_rate_limit,
            ack: self.ack()?,
            access: Access::Serve,
        })))
    }

    fn ack(&self) -> Result<Option<Ack>, String> {
        let (replicas, fsync) = (self.replicas_ack.unwrap_or(0), self.fsync_ack);
        let timeout = self.replicas_ack_timeout.unwrap_or(DEFAULT_REPLICAS_ACK_TIMEOUT);
        let is_required = replicas > 0 || fsync;
        if is_required && timeout >= self.call_timeout {
            return Err(format!(
                "--replicas-ack-timeout {} must be shorter than --call-timeout {}",
                humantime::format_duration(timeout),
                humantime::format_duration(self.call_timeout),
            ));
        }
        let ack = Ack { replicas, fsync, timeout, connections: Ack::CONNECTIONS };
        Ok(is_required.then_some(ack))
    }
}

impl TokenArgs {
    pub(in crate::cli) fn validate(self) -> Result<TokenConfig, String> {
        Ok(TokenConfig {
            user: self.user.parse().map_err(|problem| format!("--user {problem}"))?,
            secret: read_secret(&self.jwt_secret_file)?,
            ttl: self.ttl,
            output: self.output,
            expected: self.expected.expected(),
        })
    }
}

impl ExpectedArgs {
    pub(super) fn expected(&self) -> ExpectedClaims {
        ExpectedClaims { issuer: self.jwt_issuer.clone(), audience: self.jwt_audience.clone() }
    }
}

pub(super) fn read_secret(file: &Path) -> Result<Secret, String> {
    const FLAG: &str = "--jwt-secret-file";
    Secret::from_file_contents(read(FLAG, file)?).map_err(|what| problem(FLAG, file, &what))
}
