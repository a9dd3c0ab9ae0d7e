//! Validates the settings of the connection to Redis.

use crate::cli::args::{ModeName, RedisArgs};
use crate::store::redis::{
    ClusterSeeds, RedisAddress, RedisFiles, RedisFlags, RedisMode, SentinelGroup,
};

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
const DEFAULT_CLUSTER_PARTITIONS: u16 = 64;

/// Longest name of a master.
const MASTER_NAME_MAX_BYTES: usize = 255;

/// Returns where the keys are.
pub(super) fn redis_mode(urls: &[String], redis: &RedisArgs) -> Result<RedisMode, String> {
    let mode = redis.mode.unwrap_or_default();
    redis.refuse_what_the_mode_excludes(mode, urls)?;
    let mode = match mode {
        ModeName::Standalone => {
            let url = urls.first().map_or(DEFAULT_URL, String::as_str);
            RedisMode::Standalone(redis.address(url)?)
        }
        ModeName::Sentinel => RedisMode::Sentinel(redis.sentinel_group(urls)?),
        ModeName::Cluster => {
            let default = [DEFAULT_URL.to_owned()];
            let urls = if urls.is_empty() { &default[..] } else { urls };
            RedisMode::Cluster(redis.cluster_seeds(urls)?)
        }
    };
    // An invalid file stops the start; later it is logged.
    mode.check_files()?;
    Ok(mode)
}

/// Checks the name of the stream, to which a cluster's partitions append their hash tags.
pub(super) fn check_stream(mode: &RedisMode, stream: &str) -> Result<(), String> {
    if matches!(mode, RedisMode::Cluster(_)) && stream.contains(['{', '}']) {
        return Err("--stream contains a brace, and --redis-mode is cluster: the stream of each \
                    partition has a hash tag of its own"
            .to_owned());
    }
    Ok(())
}

impl RedisArgs {
    /// Flags that are about Redis, and whether each is set.
    pub(super) fn flags(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let flags = [
            ("--redis-mode", self.mode.is_some()),
            ("--partitions", self.partitions.is_some()),
            ("--redis-username", self.username.is_some()),
            ("--redis-password-file", self.password_file.is_some()),
            ("--redis-ca", self.ca.is_some()),
            ("--redis-cert", self.cert.is_some()),
            ("--redis-key", self.key.is_some()),
        ];
        flags.into_iter().chain(self.sentinel_flags())
    }

    fn sentinel_flags(&self) -> [(&'static str, bool); 6] {
        [
            ("--redis-sentinel-master", self.sentinel_master.is_some()),
            ("--redis-sentinel-username", self.sentinel_username.is_some()),
            ("--redis-sentinel-password-file", self.sentinel_password_file.is_some()),
            ("--redis-sentinel-ca", self.sentinel_ca.is_some()),
            ("--redis-sentinel-cert", self.sentinel_cert.is_some()),
            ("--redis-sentinel-key", self.sentinel_key.is_some()),
        ]
    }

    fn refuse_what_the_mode_excludes(&self, mode: ModeName, urls: &[String]) -> Result<(), String> {
        if mode == ModeName::Standalone && urls.len() > 1 {
            return Err("--redis-url names several servers, and --redis-mode is standalone: name \
                        one, or set --redis-mode sentinel or cluster"
                .to_owned());
        }
        if mode != ModeName::Sentinel
            && let Some((flag, _)) = self.sentinel_flags().into_iter().find(|(_, set)| *set)
        {
            return Err(format!("{flag} needs --redis-mode sentinel"));
        }
        match self.partitions {
            Some(partitions) if partitions != 1 && mode != ModeName::Cluster => Err(format!(
                "--partitions {partitions} needs --redis-mode cluster: it must be 1, or be left out"
            )),
            _ => Ok(()),
        }
    }

    fn files(&self) -> RedisFiles {
        RedisFiles {
            flags: RedisFlags::default(),
            password: self.password_file.clone(),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        }
    }

    fn sentinel_files(&self) -> RedisFiles {
        RedisFiles {
            flags: RedisFlags::SENTINEL,
            password: self.sentinel_password_file.clone(),
            ca: self.sentinel_ca.clone(),
            cert: self.sentinel_cert.clone(),
            key: self.sentinel_key.clone(),
        }
    }

    fn address(&self, url: &str) -> Result<RedisAddress, String> {
        RedisAddress::new(url, self.username.as_deref(), self.files())
    }

    fn sentinel_group(&self, urls: &[String]) -> Result<SentinelGroup, String> {
        let Some(master_name) = self.sentinel_master.clone() else {
            return Err("--redis-mode sentinel needs --redis-sentinel-master: the name of the \
                        master in the Sentinels' configuration"
                .to_owned());
        };
        // Of the charset of Sentinel's own configuration.
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if master_name.len() > MASTER_NAME_MAX_BYTES || !master_name.bytes().all(is_of_name) {
            return Err(format!(
                "--redis-sentinel-master is not the name of a master: it must be at most \
                 {MASTER_NAME_MAX_BYTES} letters, digits, '.', '-' and '_'"
            ));
        }
        let address = |url: &String| {
            let username = self.sentinel_username.as_deref();
            RedisAddress::new(url, username, self.sentinel_files())
        };
        let sentinels = alike(urls.iter().map(address))?;
        let Some(first) = sentinels.first() else {
            return Err(
                "--redis-mode sentinel needs --redis-url: the URLs of the Sentinels".to_owned()
            );
        };
        let master = first.found_later(&master_name, self.username.as_deref(), self.files())?;
        let sentinels = sentinels.into_iter().map(RedisAddress::without_database).collect();
        Ok(SentinelGroup { sentinels, master_name, master })
    }

    fn cluster_seeds(&self, urls: &[String]) -> Result<ClusterSeeds, String> {
        let seeds = alike(urls.iter().map(|url| self.address(url)))?;
        if seeds.iter().any(|seed| seed.database() != 0) {
            return Err(
                "--redis-url names a database, and --redis-mode is cluster: a cluster has only \
                        database 0"
                    .to_owned(),
            );
        }
        Ok(ClusterSeeds {
            seeds,
            partitions: self.partitions.unwrap_or(DEFAULT_CLUSTER_PARTITIONS),
        })
    }
}

/// Collects addresses that must differ only in host and port: the servers that they lead to are reached as
/// the first one is.
fn alike(
    addresses: impl Iterator<Item = Result<RedisAddress, String>>,
) -> Result<Vec<RedisAddress>, String> {
    let addresses: Vec<_> = addresses.collect::<Result<_, _>>()?;
    let Some(first) = addresses.first() else { return Ok(addresses) };
    if addresses.iter().any(RedisAddress::is_unix) {
        return Err(
            "--redis-url is the path of a socket, and --redis-mode is not standalone: it must be \
                    redis://host:port or rediss://host:port"
                .to_owned(),
        );
    }
    if addresses.iter().any(|address| address.is_tls() != first.is_tls()) {
        return Err(
            "--redis-url has URLs of two schemes: all must start with redis://, or all with \
                    rediss://"
                .to_owned(),
        );
    }
    if addresses.iter().any(|address| !address.has_settings_of(first)) {
        return Err(
            "--redis-url has URLs with different users, passwords or databases: they must be \
                    the same"
                .to_owned(),
        );
    }
    Ok(addresses)
}
