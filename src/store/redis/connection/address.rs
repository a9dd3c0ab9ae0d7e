//! The address of Redis, and the credentials for it.

use std::fmt;
use std::path::PathBuf;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, RedisError, RedisResult, TlsCertificates,
};

use super::link::Connect;
use crate::files::{problem, read, read_certificates, read_client_identity, without_newline};
use crate::store::redis::cluster::topology::Address;

/// How long sent data may stay unacknowledged by the other machine's TCP.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The address of a Redis. Its files are read for each attempt to connect, so that a renewed password
/// or certificate is used without a restart.
#[derive(Clone)]
pub struct RedisAddress {
    info: ConnectionInfo,
    files: RedisFiles,
}

/// Files with secrets and certificates, so that none is in the URL.
#[derive(Clone, Debug, Default)]
pub struct RedisFiles {
    /// `--redis-password-file`, whose last newline (LF or CRLF) is not part of the password.
    pub password: Option<PathBuf>,
    /// `--redis-ca`: the CAs of Redis's certificate, PEM. Default: the system's.
    pub ca: Option<PathBuf>,
    /// `--redis-cert`: this client's certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// `--redis-key`: its private key, PEM.
    pub key: Option<PathBuf>,
}

const PASSWORD_FILE: &str = "--redis-password-file";

impl RedisAddress {
    /// Parses a URL, and checks it against the other settings.
    ///
    /// # Errors
    ///
    /// The invalid flag, and what it allows. The URL is not quoted: it may contain a password.
    pub fn new(url: &str, username: Option<&str>, files: RedisFiles) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|_| {
            "--redis-url is not the URL of a Redis: it must be redis://host:port, \
             rediss://host:port or unix:///path"
        })?;
        let is_tls = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err("--redis-url must not end in #insecure: certificates are always \
                            verified"
                    .to_owned());
            }
            ConnectionAddr::TcpTls { .. } => true,
            _ => false,
        };
        files.check(is_tls)?;
        let in_url = info.redis_settings();
        if files.password.is_some() && in_url.password().is_some() {
            return Err(format!(
                "{PASSWORD_FILE} and a password in --redis-url are both set: remove one"
            ));
        }
        if username.is_some() && in_url.username().is_some() {
            return Err(
                "--redis-username and a user in --redis-url are both set: remove one".to_owned()
            );
        }
        if username.is_some() && files.password.is_none() {
            return Err(format!("--redis-username must be set together with {PASSWORD_FILE}"));
        }
        // RESP3: its connections report at once that they are lost.
        let mut settings = in_url.clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        Ok(Self { info, files })
    }

    /// Returns another address, which is reached in the same way.
    pub(crate) fn at(&self, Address { host, port }: &Address) -> Self {
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.clone(), *port),
        };
        Self { info: self.info.clone().set_addr(addr), files: self.files.clone() }
    }

    /// Returns the address without what is in the files.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Creates a client with the current contents of the files.
    ///
    /// # Errors
    ///
    /// The invalid file, and its problem.
    pub fn client(&self) -> Result<Client, String> {
        let mut info = self.info.clone();
        if let Some(file) = &self.files.password {
            let password = without_newline(read(PASSWORD_FILE, file)?);
            if password.is_empty() {
                return Err(problem(PASSWORD_FILE, file, "contains only a newline"));
            }
            let password = String::from_utf8(password)
                .map_err(|_| problem(PASSWORD_FILE, file, "is not UTF-8 text"))?;
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let client = match self.files.certificates()? {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        client.map_err(|error| format!("--redis-url: {error}"))
    }
}

impl Connect for RedisAddress {
    type Client = Client;

    fn client(&self) -> Result<Client, String> {
        RedisAddress::client(self)
    }

    async fn connect(
        client: &Client,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let connected = client.get_multiplexed_async_connection_with_config(config).await;
        let database = client.get_connection_info().redis_settings().db();
        connected.map_err(|error| name_missing_database(error, database))
    }
}

/// Replaces Redis's refusal of `SELECT`, which would look like a wrong value in the store.
fn name_missing_database(error: RedisError, database: i64) -> RedisError {
    if !error.to_string().contains("refused to switch database") {
        return error;
    }
    let problem = "--redis-url names a database that Redis refuses";
    let detail = format!("{database} ({})", error.detail().unwrap_or("no reason given"));
    (ErrorKind::InvalidClientConfig, problem, detail).into()
}

/// Small commands are sent at once, and a machine that is gone is noticed.
fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(TCP_USER_TIMEOUT);
    settings
}

impl RedisFiles {
    fn check(&self, is_tls: bool) -> Result<(), String> {
        let tls =
            [("--redis-ca", &self.ca), ("--redis-cert", &self.cert), ("--redis-key", &self.key)];
        for (flag, file) in tls {
            if file.is_some() && !is_tls {
                return Err(format!("{flag} needs a --redis-url that starts with rediss://"));
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => Err("--redis-cert must be set together with --redis-key".to_owned()),
            (None, Some(_)) => Err("--redis-key must be set together with --redis-cert".to_owned()),
            _ => Ok(()),
        }
    }

    /// Reads the certificates and the key. The redis crate ignores text without a certificate, and
    /// checks whether certificate and key match only when it connects; here both are errors.
    fn certificates(&self) -> Result<Option<TlsCertificates>, String> {
        let root_cert =
            self.ca.as_ref().map(|ca| read_certificates("--redis-ca", ca)).transpose()?;
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (client_cert, client_key) =
                    read_client_identity(("--redis-cert", cert), ("--redis-key", key))?;
                Some(ClientTlsConfig { client_cert, client_key })
            }
            _ => None,
        };
        let any = root_cert.is_some() || client_tls.is_some();
        Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("RedisAddress").field("files", &self.files).finish_non_exhaustive()
    }
}
