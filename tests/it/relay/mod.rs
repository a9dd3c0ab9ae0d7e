//! `markread relay` as its receivers see it: what arrives, when, in which order, and what becomes of the rest.

#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::print_stdout,
    reason = "counts are small, and figures are printed for whoever runs a test with --nocapture"
)]

use std::time::Duration;

use markread_harness::Redis;
use markread_harness::events::STREAM;

mod addresses;
mod bad_receivers;
mod chaos;
mod checks;
mod deliveries;
mod file;
mod gaps;
mod letters;
mod modes;
mod operations;
mod order;
mod owners;
mod redeliver;
mod stream;

/// Enough for anything that is due at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Long enough that what was not to arrive would have.
const QUIET: Duration = Duration::from_secs(2);

const ALL: &str = "users = \"all\"";

/// How many entries of a webhook's feed were read and not acknowledged.
async fn pending(redis: &Redis, webhook: &str) -> u64 {
    let (count, ..): (u64, redis::Value, redis::Value, redis::Value) =
        redis.run(&format!("XPENDING {STREAM} markread-relay:{webhook}")).await;
    count
}

/// Waits until a webhook's feed is at the end of the stream, with everything acknowledged.
async fn wait_until_done(redis: &Redis, webhook: &str) {
    markread_harness::eventually("everything is acknowledged", SOON, async || {
        stream::Snapshot::take(redis, webhook).await.is_done().then_some(())
    })
    .await;
}
