//! The relay: delivers mark-read events to webhooks, signed, in order for each conversation, again until they
//! arrive (`docs/webhooks.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::store::relay::RelayStore;

mod assignment;
mod body;
mod checks;
mod circuit;
mod dead_letters;
pub mod dev_receiver;
mod doorbell;
mod endpoint;
mod feed;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod lanes;
mod lease;
mod ownership;
mod process;
pub mod receiver;
mod report;
mod retry;
mod routing;
mod signature;
#[cfg(test)]
mod tests;
pub mod webhook;
mod webhooks_file;

pub use self::body::delivery_body;
pub use self::checks::{CheckBy, MadeCheck, record_check};
pub use self::process::Relay;
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

/// State that all parts of a process share.
struct Context {
    store: Arc<dyn RelayStore>,
    config: RelayConfig,
    /// ID of this process.
    process: String,
    /// The wall clock, in milliseconds since 1970.
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Feeds that this process delivers.
    owned: AtomicUsize,
    /// Bytes of the entries that its feeds hold, or are about to read.
    held_bytes: Arc<AtomicUsize>,
}

impl Context {
    fn new(
        store: Arc<dyn RelayStore>,
        config: RelayConfig,
        process: String,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        Self {
            store,
            config,
            process,
            clock,
            owned: AtomicUsize::new(0),
            held_bytes: Arc::default(),
        }
    }

    fn owned(&self) -> usize {
        self.owned.load(Ordering::Relaxed)
    }

    fn set_owned(&self, feeds: usize) {
        self.owned.store(feeds, Ordering::Relaxed);
    }
}
