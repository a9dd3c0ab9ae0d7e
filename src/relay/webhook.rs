//! A webhook as the file has it.

use std::fmt;
use std::sync::Arc;

use super::receiver::Receiver;
use crate::domain::WebhookName;

/// All webhooks of the file, by name.
pub type Webhooks = Arc<[Arc<Webhook>]>;

/// A webhook. If the file is read again and this one has not changed, it stays the same value
/// ([`Arc::ptr_eq`]).
pub struct Webhook {
    /// Its name.
    pub name: WebhookName,
    /// Whose events it gets.
    pub audience: Audience,
    /// Whether it also gets the reader's own events.
    pub echo: bool,
    /// Digest of the URL and of what else a check depends on, without secrets in it.
    pub settings: String,
    /// Where it sends to.
    pub receiver: Arc<dyn Receiver>,
}

/// Whose events a webhook gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Those of the users that are subscribed.
    #[default]
    Subscribed,
    /// Everyone's.
    All,
}

/// Where deliveries may go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Targets {
    /// Also to `http://` URLs.
    pub allow_http: bool,
    /// Also to private, loopback, link-local and other special addresses.
    pub allow_private: bool,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}
