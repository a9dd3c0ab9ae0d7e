//! The settings of the commands that are clients.

use http::Uri;

use super::Command;
use super::args::{ClientArgs, MarkArgs, StateArgs, WatchArgs};
use super::validate::{about, read};
use crate::client::commands::{Ask, Format};
use crate::client::{ClientConfig, Credentials, PrivateKey};
use crate::entry_id::EntryId;
use crate::mark_read::BATCH_MAX_ITEMS;

impl MarkArgs {
    pub(super) fn validate(self) -> Result<Command, String> {
        let recipient = self.recipient.parse();
        let recipient = recipient.map_err(|problem| format!("--recipient {problem}"))?;
        let last_read_event_id = self.last_read_event_id.parse();
        let last_read_event_id =
            last_read_event_id.map_err(|problem| format!("--last-read-event-id {problem}"))?;
        let config = self.client.validate()?;
        Ok(Command::Ask(Box::new(config), Ask::Mark { recipient, last_read_event_id }))
    }
}

impl StateArgs {
    pub(super) fn validate(self) -> Result<Command, String> {
        if self.recipient.len() > BATCH_MAX_ITEMS {
            return Err(format!("--recipient is given more than {BATCH_MAX_ITEMS} times"));
        }
        let recipients = self.recipient.iter().map(|recipient| recipient.parse());
        let recipients: Result<Vec<_>, _> = recipients.collect();
        let recipients = recipients.map_err(|problem| format!("--recipient {problem}"))?;
        let config = self.client.validate()?;
        Ok(Command::Ask(Box::new(config), Ask::State { recipients }))
    }
}

impl WatchArgs {
    pub(super) fn validate(self) -> Result<Command, String> {
        if let Some(after) = &self.after {
            after.parse::<EntryId>().map_err(|problem| format!("--after {problem}"))?;
        }
        let format = if self.json { Format::Json } else { Format::Text };
        let config = self.client.validate()?;
        let after = self.after.unwrap_or_default();
        Ok(Command::Ask(Box::new(config), Ask::Watch { after, format }))
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
            "--address is no server's: it takes host:port, http://host:port or https://host:port, \
             without a path",
        )?;
        let user = self.user.map(|user| user.parse()).transpose();
        let user = user.map_err(|problem| format!("--user {problem}"))?;
        let token = self.token_file.as_deref().map(|file| {
            let contents = read("--token-file", file)?;
            String::from_utf8(contents).map_err(|_| about("--token-file", file, "holds no text"))
        });
        let token = token.transpose()?;
        let credentials = Credentials::new(token.as_deref(), user).map_err(|problem| {
            let file = self.token_file.clone().unwrap_or_default();
            about("--token-file", &file, problem)
        })?;
        let ca = self.tls_ca.as_deref().map(|file| read("--tls-ca", file)).transpose()?;
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let key = PrivateKey(read("--tls-key", key)?);
                Some((read("--tls-cert", cert)?, key))
            }
            (None, None) => None,
            (Some(_), None) => return Err("--tls-cert needs --tls-key: set it too".to_owned()),
            (None, Some(_)) => return Err("--tls-key needs --tls-cert: set it too".to_owned()),
        };
        Ok(ClientConfig { address, credentials, ca, certificate })
    }
}
