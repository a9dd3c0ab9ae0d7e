//! All that defines a webhook: its table, and what is in the files that it names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::entries::Entry;
use crate::domain::WebhookName;
use crate::files::without_newline;
use crate::relay::http::{HttpReceiver, HttpSettings};
use crate::relay::signature::{Secrets, parse_standard_secret};
use crate::relay::webhook::{Audience, Targets, Webhook};

/// Secrets in `standard_secret_file`: the one in use, and the one before it while it rotates.
const STANDARD_SECRETS_MAX: usize = 2;

/// A webhook that is fully read. Two that are equal are the same webhook.
#[derive(PartialEq, Eq)]
pub(super) struct Definition {
    name: WebhookName,
    url: String,
    audience: Audience,
    echo: bool,
    proxy: Option<String>,
    secret: Vec<u8>,
    previous: Option<Vec<u8>>,
    standard: Vec<Vec<u8>>,
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Definition {
    /// Creates it from a table and the contents of files.
    ///
    /// # Errors
    ///
    /// Where the problem is, and what it is.
    pub(super) fn new(
        entry: &Entry,
        contents: &BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    ) -> Result<Self, String> {
        let read = |member: &'static str| -> Result<Option<Vec<u8>>, String> {
            let Some(path) = entry.files.get(member) else { return Ok(None) };
            let file = path.to_string_lossy();
            let problem = |what: &str| entry.problem(member, &format!("{file:?} {what}"));
            match contents.get(path) {
                Some(Ok(contents)) if contents.is_empty() => Err(problem("is empty")),
                Some(Ok(contents)) => Ok(Some(contents.clone())),
                Some(Err(what)) => Err(problem(what)),
                None => Err(problem("was not read")),
            }
        };
        let secret = |member: &'static str| -> Result<Option<Vec<u8>>, String> {
            let secret = read(member)?.map(without_newline);
            match &secret {
                Some(secret) if secret.is_empty() => {
                    Err(entry.problem(member, "must contain more than a newline"))
                }
                _ => Ok(secret),
            }
        };
        let standard = match read("standard_secret_file")? {
            None => Vec::new(),
            Some(contents) => standard_secrets(&contents)
                .ok_or_else(|| entry.problem("standard_secret_file", STANDARD_FORM))?,
        };
        Ok(Self {
            name: entry.name.clone(),
            url: entry.url.clone(),
            audience: entry.audience,
            echo: entry.echo,
            proxy: entry.proxy.clone(),
            secret: secret("secret_file")?.unwrap_or_default(),
            previous: secret("previous_secret_file")?,
            standard,
            ca: read("ca_file")?,
            cert: read("cert_file")?,
            key: read("key_file")?,
        })
    }

    /// Creates the webhook.
    ///
    /// # Errors
    ///
    /// The member that is wrong, and the problem.
    pub(super) fn to_webhook(&self, targets: Targets) -> Result<Webhook, (&'static str, String)> {
        let settings = HttpSettings {
            url: &self.url,
            proxy: self.proxy.as_deref(),
            ca: self.ca.as_deref(),
            identity: self.cert.as_deref().zip(self.key.as_deref()),
        };
        let secrets = Secrets::new(&self.secret, self.previous.as_deref(), &self.standard);
        let receiver = HttpReceiver::new(settings, secrets, targets)?;
        Ok(Webhook {
            name: self.name.clone(),
            audience: self.audience,
            echo: self.echo,
            settings: self.digest(receiver.url()),
            receiver: Arc::new(receiver),
        })
    }

    /// Returns the digest of what a check depends on: where the webhook sends to, how it connects, and with
    /// which secrets.
    fn digest(&self, url: &str) -> String {
        let mut context = Context::new(&SHA256);
        let parts = [
            Some(url.as_bytes()),
            self.proxy.as_deref().map(str::as_bytes),
            self.ca.as_deref(),
            self.cert.as_deref(),
            Some(&self.secret),
            self.previous.as_deref(),
        ];
        for part in parts {
            // The length keeps a part from running into the next one; an absent one is not an empty one.
            let length =
                part.map_or(u64::MAX, |part| u64::try_from(part.len()).unwrap_or(u64::MAX));
            context.update(&length.to_be_bytes());
            context.update(part.unwrap_or_default());
        }
        context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
            // A string takes any text.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

const STANDARD_FORM: &str = "must contain whsec_ and base64 of 24 to 64 bytes; while it rotates, the new \
                             one and the one before it, each on a line";

fn standard_secrets(contents: &[u8]) -> Option<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(contents).ok()?;
    let secrets: Option<Vec<_>> = text.lines().map(parse_standard_secret).collect();
    secrets.filter(|secrets| (1..=STANDARD_SECRETS_MAX).contains(&secrets.len()))
}
