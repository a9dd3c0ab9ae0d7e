//! The relay: delivers mark-read events to webhooks, signed, in order for each conversation, again until they
//! arrive (`docs/webhooks.md`).

use std::time::Duration;

mod body;
pub mod dev_receiver;
mod http;
pub mod receiver;
mod signature;
pub mod webhook;
mod webhooks_file;

pub use self::body::delivery_body;
pub use self::webhooks_file::WebhooksFile;

/// Settings of the relay, of all webhooks.
#[derive(Clone, Copy, Debug)]
pub struct RelayConfig {
    /// How long checks may fail before a webhook is paused.
    pub check_grace: Duration,
    /// Attempts to deliver an event before it becomes a dead letter.
    pub max_attempts: u32,
    /// Age of an event at which it becomes a dead letter.
    pub max_age: Duration,
    /// Approximate number of dead letters of a webhook; 0 keeps all.
    pub dead_letters_maxlen: u64,
    /// Deliveries to a webhook at the same time, of this process.
    pub concurrency: usize,
}
