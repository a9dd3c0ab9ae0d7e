//! Where Redis is, and how it is told who asks.

use std::fmt;
use std::path::PathBuf;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    TlsCertificates,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::files::{about, read, without_newline};
use crate::net::tls::certificates;
use crate::store::redis::connection::link::tcp_settings;

/// Where Redis is. Its files are read for each attempt to connect: a password or a certificate that
/// was renewed is used without a restart.
#[derive(Clone)]
pub struct RedisAddress {
    info: ConnectionInfo,
    files: RedisFiles,
}

/// Secrets and certificates that stand in files, not in the URL.
#[derive(Clone, Debug, Default)]
pub struct RedisFiles {
    /// `--redis-password-file`; one newline at its end is not part of the password.
    pub password: Option<PathBuf>,
    /// `--redis-ca`: who may have signed Redis's certificate, PEM; else the system's CAs.
    pub ca: Option<PathBuf>,
    /// `--redis-cert`: this client's certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// `--redis-key`: its private key, PEM.
    pub key: Option<PathBuf>,
}

const PASSWORD_FILE: &str = "--redis-password-file";

impl RedisAddress {
    /// The Redis at this URL, asked as this user where one is named.
    ///
    /// # Errors
    ///
    /// Which flag makes no sense, and what would be right. The URL is not repeated: there may be a
    /// password in it.
    pub fn new(url: &str, username: Option<&str>, files: RedisFiles) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|_| {
            "--redis-url is no URL of a Redis: it takes redis://host:port, rediss://host:port or \
             unix:///path"
        })?;
        let is_tls = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err("--redis-url ends in #insecure: certificates are always verified, \
                            leave it out"
                    .to_owned());
            }
            ConnectionAddr::TcpTls { .. } => true,
            _ => false,
        };
        files.check(is_tls)?;
        let in_url = info.redis_settings();
        if files.password.is_some() && in_url.password().is_some() {
            return Err(format!("{PASSWORD_FILE} and the password in --redis-url: take one"));
        }
        if username.is_some() && in_url.username().is_some() {
            return Err("--redis-username and the user in --redis-url: take one".to_owned());
        }
        if username.is_some() && files.password.is_none() {
            return Err(format!("--redis-username needs {PASSWORD_FILE}: set it too"));
        }
        // RESP3, since its connections tell at once when they are lost.
        let mut settings = in_url.clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        Ok(Self { info, files })
    }

    /// What is known of it without the files.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// A client with what the files hold now.
    ///
    /// # Errors
    ///
    /// Which file is wrong, and how.
    pub fn client(&self) -> Result<Client, String> {
        let mut info = self.info.clone();
        if let Some(file) = &self.files.password {
            let password = without_newline(read(PASSWORD_FILE, file)?);
            let password = String::from_utf8(password)
                .map_err(|_| about(PASSWORD_FILE, file, "is not UTF-8 text"))?;
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
            (Some(_), None) => Err("--redis-cert needs --redis-key: set it too".to_owned()),
            (None, Some(_)) => Err("--redis-key needs --redis-cert: set it too".to_owned()),
            _ => Ok(()),
        }
    }

    /// The certificates and the key, where there are any. The redis crate takes text without any
    /// certificate for none, and looks at what goes together when it connects: here that is an error.
    fn certificates(&self) -> Result<Option<TlsCertificates>, String> {
        let certificate_in = |flag, file: &PathBuf| {
            let pem = read(flag, file)?;
            let chain = certificates(&pem);
            let chain = chain.ok_or_else(|| about(flag, file, "holds no PEM certificate"))?;
            Ok::<_, String>((pem, chain))
        };
        let root_cert = self.ca.as_ref().map(|ca| certificate_in("--redis-ca", ca)).transpose()?;
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key_file)) => {
                let (client_cert, chain) = certificate_in("--redis-cert", cert)?;
                let client_key = read("--redis-key", key_file)?;
                let key = PrivateKeyDer::from_pem_slice(&client_key)
                    .map_err(|_| about("--redis-key", key_file, "holds no PEM private key"))?;
                ClientConfig::builder()
                    .with_root_certificates(RootCertStore::empty())
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| {
                        let problem = format!("does not go with --redis-cert: {error}");
                        about("--redis-key", key_file, &problem)
                    })?;
                Some(ClientTlsConfig { client_cert, client_key })
            }
            _ => None,
        };
        let root_cert = root_cert.map(|(pem, _)| pem);
        let any = root_cert.is_some() || client_tls.is_some();
        Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisAddress").field("files", &self.files).finish_non_exhaustive()
    }
}
