//! Flags of the connection to Redis, of `markread serve` and `markread admin`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::integer;

#[derive(Args, Clone)]
pub(in crate::cli) struct RedisArgs {
    /// What --redis-url names: one Redis, the Sentinels of a master, or nodes of a cluster [default:
    /// standalone]
    #[arg(long = "redis-mode", value_name = "MODE", env = "MARKREAD_REDIS_MODE")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) mode: Option<ModeName>,

    /// Shares of the readers, over which a cluster's nodes divide them; fixed at the first start. Other
    /// than 1 only in a cluster [default: 64 in a cluster, else 1]
    #[arg(long, value_name = "PARTITIONS", env = "MARKREAD_PARTITIONS", hide_env_values = true)]
    #[arg(value_parser = integer::<u16>(1..=1024))]
    pub(in crate::cli) partitions: Option<u16>,

    /// User name for Redis [default: the one in --redis-url, else Redis's default user]
    #[arg(long = "redis-username", value_name = "NAME", env = "MARKREAD_REDIS_USERNAME")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) username: Option<String>,

    /// File with the password for Redis, without one newline at the end; read for each connection, as
    /// are the other --redis- files
    #[arg(long = "redis-password-file", value_name = "FILE", env = "MARKREAD_REDIS_PASSWORD_FILE")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) password_file: Option<PathBuf>,

    /// File with the CAs of Redis's certificate, PEM, for rediss:// [default: the system's]
    #[arg(long = "redis-ca", value_name = "FILE", env = "MARKREAD_REDIS_CA")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) ca: Option<PathBuf>,

    /// File with the client certificate chain for Redis, PEM
    #[arg(long = "redis-cert", value_name = "FILE", env = "MARKREAD_REDIS_CERT")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) cert: Option<PathBuf>,

    /// File with the certificate's private key, PEM
    #[arg(long = "redis-key", value_name = "FILE", env = "MARKREAD_REDIS_KEY")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) key: Option<PathBuf>,

    /// Name of the master in the Sentinels' configuration
    #[arg(long = "redis-sentinel-master", value_name = "NAME", hide_env_values = true)]
    #[arg(env = "MARKREAD_REDIS_SENTINEL_MASTER")]
    pub(in crate::cli) sentinel_master: Option<String>,

    /// User name for the Sentinels [default: the one in --redis-url, else their default user]
    #[arg(long = "redis-sentinel-username", value_name = "NAME", hide_env_values = true)]
    #[arg(env = "MARKREAD_REDIS_SENTINEL_USERNAME")]
    pub(in crate::cli) sentinel_username: Option<String>,

    /// File with the password for the Sentinels, without one newline at the end
    #[arg(long = "redis-sentinel-password-file", value_name = "FILE", hide_env_values = true)]
    #[arg(env = "MARKREAD_REDIS_SENTINEL_PASSWORD_FILE")]
    pub(in crate::cli) sentinel_password_file: Option<PathBuf>,

    /// File with the CAs of the Sentinels' certificates, PEM, for rediss:// [default: the system's]
    #[arg(long = "redis-sentinel-ca", value_name = "FILE", env = "MARKREAD_REDIS_SENTINEL_CA")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) sentinel_ca: Option<PathBuf>,

    /// File with the client certificate chain for the Sentinels, PEM
    #[arg(long = "redis-sentinel-cert", value_name = "FILE", env = "MARKREAD_REDIS_SENTINEL_CERT")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) sentinel_cert: Option<PathBuf>,

    /// File with the certificate's private key, PEM
    #[arg(long = "redis-sentinel-key", value_name = "FILE", env = "MARKREAD_REDIS_SENTINEL_KEY")]
    #[arg(hide_env_values = true)]
    pub(in crate::cli) sentinel_key: Option<PathBuf>,
}

/// What `--redis-url` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ModeName {
    #[default]
    Standalone,
    Sentinel,
    Cluster,
}
