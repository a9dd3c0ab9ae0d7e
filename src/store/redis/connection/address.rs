//! The address of Redis, and the credentials for it.

use std::fmt;
use std::path::PathBuf;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates,
};

use super::failure::Failure;
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
    /// The flags that name them.
    pub flags: RedisFlags,
    /// `--redis-password-file`, whose last newline (LF or CRLF) is not part of the password.
    pub password: Option<PathBuf>,
    /// `--redis-ca`: the CAs of Redis's certificate, PEM. Default: the system's.
    pub ca: Option<PathBuf>,
    /// `--redis-cert`: this client's certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// `--redis-key`: its private key, PEM.
    pub key: Option<PathBuf>,
}

/// The flags that an address comes from, as messages name them.
#[derive(Clone, Copy, Debug)]
pub struct RedisFlags {
    /// `--redis-url`.
    pub url: &'static str,
    /// `--redis-username`.
    pub username: &'static str,
    /// `--redis-password-file`.
    pub password_file: &'static str,
    /// `--redis-ca`.
    pub ca: &'static str,
    /// `--redis-cert`.
    pub cert: &'static str,
    /// `--redis-key`.
    pub key: &'static str,
}

impl RedisFlags {
    /// The flags of the Sentinels.
    pub const SENTINEL: Self = Self {
        url: "--redis-url",
        username: "--redis-sentinel-username",
        password_file: "--redis-sentinel-password-file",
        ca: "--redis-sentinel-ca",
        cert: "--redis-sentinel-cert",
        key: "--redis-sentinel-key",
    };
}

impl Default for RedisFlags {
    fn default() -> Self {
        Self {
            url: "--redis-url",
            username: "--redis-username",
            password_file: "--redis-password-file",
            ca: "--redis-ca",
            cert: "--redis-cert",
            key: "--redis-key",
        }
    }
}

impl RedisAddress {
    /// Parses a URL, and checks it against the other settings.
    ///
    /// # Errors
    ///
    /// The invalid flag, and what it allows. The URL is not quoted: it may contain a password.
    pub fn new(url: &str, username: Option<&str>, files: RedisFiles) -> Result<Self, String> {
        let flags = files.flags;
        let info = url.into_connection_info().map_err(|_| {
            format!(
                "{} is not the URL of a Redis: it must be redis://host:port, rediss://host:port or \
                 unix:///path",
                flags.url
            )
        })?;
        if let ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
            return Err(format!(
                "{} must not end in #insecure: certificates are always verified",
                flags.url
            ));
        }
        let in_url = info.redis_settings().clone();
        let has_password = in_url.password().is_some();
        if files.password.is_some() && has_password {
            return Err(both_set(flags.password_file, "a password", flags));
        }
        if username.is_some() && in_url.username().is_some() {
            return Err(both_set(flags.username, "a user", flags));
        }
        let address = Self { info, files };
        if !address.is_tls() {
            address.files.refuse_tls()?;
        }
        address.with_settings(username, in_url)
    }

    /// Returns the address of a server that will be found out, `name` until then: it has the same scheme
    /// and database, and other credentials.
    ///
    /// # Errors
    ///
    /// The invalid flag, and what it allows.
    pub(crate) fn found_later(
        &self,
        name: &str,
        username: Option<&str>,
        files: RedisFiles,
    ) -> Result<Self, String> {
        // Whoever verifies its certificate, or shows one, means TLS, whatever this server speaks.
        let is_tls = self.is_tls() || files.any_of_tls();
        let settings = RedisConnectionInfo::default().set_db(self.database());
        let info = self.info.clone().set_addr(tcp(name.to_owned(), 0, is_tls));
        Self { info, files }.with_settings(username, settings)
    }

    /// Returns the address with database 0.
    pub(crate) fn without_database(self) -> Self {
        let settings = self.info.redis_settings().clone().set_db(0);
        Self { info: self.info.set_redis_settings(settings), files: self.files }
    }

    fn with_settings(
        self,
        username: Option<&str>,
        mut settings: RedisConnectionInfo,
    ) -> Result<Self, String> {
        let RedisFlags { username: username_flag, password_file, .. } = self.files.flags;
        if username.is_some() && self.files.password.is_none() {
            return Err(format!("{username_flag} must be set together with {password_file}"));
        }
        self.files.check()?;
        // RESP3: its connections report at once that they are lost. No library's name, since a user who
        // may not set one (CLIENT SETINFO, from Redis 7.2 on) would add to ACL LOG.
        settings = settings.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        let info = self.info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        Ok(Self { info, files: self.files })
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

    /// Returns whether this is the path of a socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::Unix(_))
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    pub(crate) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// Returns whether two URLs name the same user, password and database.
    pub(crate) fn has_settings_of(&self, other: &Self) -> bool {
        let [one, two] = [self, other].map(|address| address.info.redis_settings());
        (one.username(), one.password(), one.db()) == (two.username(), two.password(), two.db())
    }

    /// Returns the host or the path, and the port if there is one.
    pub(crate) fn host_and_port(&self) -> (String, Option<u16>) {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), Some(*port))
            }
            other => (other.to_string(), None),
        }
    }

    /// Creates a client with the current contents of the files.
    ///
    /// # Errors
    ///
    /// The invalid file, and its problem.
    pub fn client(&self) -> Result<Client, String> {
        let mut info = self.info.clone();
        if let Some(file) = &self.files.password {
            let flag = self.files.flags.password_file;
            let password = without_newline(read(flag, file)?);
            if password.is_empty() {
                return Err(problem(flag, file, "contains only a newline"));
            }
            let password = String::from_utf8(password)
                .map_err(|_| problem(flag, file, "is not UTF-8 text"))?;
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let client = match self.files.certificates()? {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        client.map_err(|error| format!("{}: {error}", self.files.flags.url))
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
    ) -> Result<MultiplexedConnection, Failure> {
        #[cfg(test)]
        if let Some(simulated) =
            super::fake::connect_to(client.get_connection_info().addr(), config).await
        {
            return simulated;
        }
        let connected = client.get_multiplexed_async_connection_with_config(config).await;
        let database = client.get_connection_info().redis_settings().db();
        Ok(connected.map_err(|error| name_missing_database(error, database))?)
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

fn tcp(host: String, port: u16, is_tls: bool) -> ConnectionAddr {
    if is_tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

fn both_set(flag: &str, in_url: &str, flags: RedisFlags) -> String {
    format!("{flag} and {in_url} in {} are both set: remove one", flags.url)
}

impl RedisFiles {
    /// The files of TLS, each with its flag.
    fn of_tls(&self) -> [(&'static str, Option<&PathBuf>); 3] {
        let Self { flags, ca, cert, key, .. } = self;
        [(flags.ca, ca.as_ref()), (flags.cert, cert.as_ref()), (flags.key, key.as_ref())]
    }

    fn any_of_tls(&self) -> bool {
        self.of_tls().iter().any(|(_, file)| file.is_some())
    }

    fn refuse_tls(&self) -> Result<(), String> {
        match self.of_tls().iter().find(|(_, file)| file.is_some()) {
            Some((flag, _)) => {
                Err(format!("{flag} needs a {} that starts with rediss://", self.flags.url))
            }
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        let RedisFlags { cert, key, .. } = self.flags;
        match (&self.cert, &self.key) {
            (Some(_), None) => Err(format!("{cert} must be set together with {key}")),
            (None, Some(_)) => Err(format!("{key} must be set together with {cert}")),
            _ => Ok(()),
        }
    }

    /// Reads the certificates and the key. The redis crate ignores text without a certificate, and
    /// checks whether certificate and key match only when it connects; here both are errors.
    fn certificates(&self) -> Result<Option<TlsCertificates>, String> {
        let flags = self.flags;
        let root_cert = self.ca.as_ref().map(|ca| read_certificates(flags.ca, ca)).transpose()?;
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (client_cert, client_key) =
                    read_client_identity((flags.cert, cert), (flags.key, key))?;
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
