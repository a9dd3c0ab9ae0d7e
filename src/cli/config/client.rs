//! Settings of the commands that call a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use http::uri::{Authority, Scheme};
use tonic::Code;

use crate::cli::Command;
use crate::cli::args::{ClientArgs, ExpectArgs, HealthcheckArgs, MarkArgs, StateArgs, WatchArgs};
use crate::cli::commands::client::{ClientCommand, Format};
use crate::cli::commands::healthcheck::HealthcheckConfig;
use crate::client::{ClientConfig, Credentials, PrivateKey};
use crate::domain::{BATCH_MAX_ITEMS, WatchPosition};
use crate::files::{problem, read, read_certificates, read_client_identity};
use crate::proto::codes::{CODE_NAMES, parse_code};

impl MarkArgs {
    pub(in crate::cli) fn validate(self) -> Result<Command, String> {
        let recipient = self.recipient.parse();
        let recipient = recipient.map_err(|problem| format!("--recipient {problem}"))?;
        let last_read_event_id = self.last_read_event_id.parse();
        let last_read_event_id =
            last_read_event_id.map_err(|problem| format!("--last-read-event-id {problem}"))?;
        let expected = self.expect.validate()?;
        let config = self.client.validate()?;
        Ok(Command::Client(
            Box::new(config),
            ClientCommand::Mark { recipient, last_read_event_id },
            expected,
        ))
    }
}

impl StateArgs {
    pub(in crate::cli) fn validate(self) -> Result<Command, String> {
        if self.recipient.len() > BATCH_MAX_ITEMS {
            return Err(format!(
                "--recipient must be given at most {BATCH_MAX_ITEMS} times, got {}",
                self.recipient.len()
            ));
        }
        let recipients = self.recipient.iter().map(|recipient| recipient.parse());
        let recipients: Result<Vec<_>, _> = recipients.collect();
        let recipients = recipients.map_err(|problem| format!("--recipient {problem}"))?;
        if self.at_least.is_some() && recipients.is_empty() {
            return Err("--at-least must be set together with --recipient".to_owned());
        }
        let at_least = self.at_least.as_deref().map(str::parse).transpose();
        let at_least = at_least.map_err(|problem| format!("--at-least {problem}"))?;
        let expected = self.expect.validate()?;
        let config = self.client.validate()?;
        Ok(Command::Client(
            Box::new(config),
            ClientCommand::State { recipients, at_least },
            expected,
        ))
    }
}

impl WatchArgs {
    pub(in crate::cli) fn validate(self) -> Result<Command, String> {
        if let Some(after) = &self.after {
            after.parse::<WatchPosition>().map_err(|problem| format!("--after {problem}"))?;
        }
        let format = if self.json { Format::Json } else { Format::Text };
        let config = self.client.validate()?;
        let after = self.after.unwrap_or_default();
        Ok(Command::Client(Box::new(config), ClientCommand::Watch { after, format }, Code::Ok))
    }
}

impl ExpectArgs {
    fn validate(self) -> Result<Code, String> {
        let Some(name) = self.expect_status else { return Ok(Code::Ok) };
        parse_code(&name).ok_or_else(|| {
            format!(
                "--expect-status {name:?} is not a gRPC status: it must be one of {}",
                CODE_NAMES.join(", ")
            )
        })
    }
}

impl HealthcheckArgs {
    pub(in crate::cli) fn validate(self) -> Result<Command, String> {
        let is_tls = self.tls_ca.is_some() || self.tls_server_name.is_some();
        let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let listen = match self.listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_unspecified() => {
                let loopback: IpAddr = if address.is_ipv4() {
                    Ipv4Addr::LOCALHOST.into()
                } else {
                    Ipv6Addr::LOCALHOST.into()
                };
                SocketAddr::new(loopback, address.port()).to_string()
            }
            _ => self.listen,
        };
        let authority: Option<Authority> = listen.parse().ok();
        let authority = authority.filter(|authority| authority.port_u16().is_some());
        let address =
            authority.filter(|authority| !authority.as_str().contains('@')).and_then(|authority| {
                Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().ok()
            });
        let address =
            address.ok_or("--listen is not the address of a server: it must be host:port")?;
        let ca =
            self.tls_ca.as_deref().map(|file| read_certificates("--tls-ca", file)).transpose()?;
        Ok(Command::Healthcheck(HealthcheckConfig {
            address,
            ca,
            server_name: self.tls_server_name,
        }))
    }
}

impl ClientArgs {
    fn validate(self) -> Result<ClientConfig, String> {
        let tls = self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_key.is_some();
        let scheme = if tls { "https" } else { "http" };
        let address = match self.address.split_once("://") {
            Some(_) => self.address,
            None => format!("{scheme}://{}", self.address),
        };
        let address: Option<Uri> = address.parse().ok();
        let address = address.filter(|address| {
            matches!(address.scheme_str(), Some("http" | "https"))
                && address.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && address.path() == "/"
        });
        let address = address.ok_or(
            "--address is not the address of a server: it must be host:port, http://host:port or \
             https://host:port, without a path",
        )?;
        let user = self.user.map(|user| user.parse()).transpose();
        let user = user.map_err(|problem| format!("--user {problem}"))?;
        let token = self.token_file.as_deref().map(|file| {
            let contents = read("--token-file", file)?;
            String::from_utf8(contents)
                .map_err(|_| problem("--token-file", file, "is not UTF-8 text"))
        });
        let token = token.transpose()?;
        let credentials = Credentials::new(token.as_deref(), user).map_err(|invalid| {
            let file = self.token_file.clone().unwrap_or_default();
            problem("--token-file", &file, &invalid.to_string())
        })?;
        let ca =
            self.tls_ca.as_deref().map(|file| read_certificates("--tls-ca", file)).transpose()?;
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = read_client_identity(("--tls-cert", cert), ("--tls-key", key))?;
                Some((cert, PrivateKey(key)))
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err("--tls-cert must be set together with --tls-key".to_owned());
            }
            (None, Some(_)) => {
                return Err("--tls-key must be set together with --tls-cert".to_owned());
            }
        };
        Ok(ClientConfig { address, credentials, ca, certificate })
    }
}
