//! Tells the reader of a stream that there may be new entries.
//!
//! A cluster's node has the streams of many partitions. One `XREAD` cannot wait for several slots, so the
//! connection for the tail tracks the streams that are read on it (`CLIENT TRACKING`): Redis reports the
//! next change of each, and they are read again.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd};
use tokio::sync::Notify;

use crate::store::redis::partitions::Partitions;

/// Whether one stream may have new entries.
#[derive(Debug, Default)]
pub(crate) struct TailSignal {
    has_changed: AtomicBool,
    changed: Notify,
}

impl TailSignal {
    /// Notes that there may be new entries.
    pub(crate) fn notify(&self) {
        self.has_changed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until there may be. To be called after a read that found none. What has changed since the read
    /// began is not missed.
    pub(crate) async fn wait(&self) {
        while !self.has_changed.swap(false, Ordering::AcqRel) {
            self.changed.notified().await;
        }
    }

    /// Begins a read: what was noted before is known.
    pub(crate) fn begin(&self) {
        self.has_changed.store(false, Ordering::Release);
    }
}

/// Asks Redis to report the changes of what is read on a connection.
pub(super) async fn track(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut track = cmd("CLIENT");
    track.arg("TRACKING").arg("ON");
    track.query_async(connection).await
}

/// Notes what Redis reports: a list of keys, or nothing if all have changed, as by a flush.
pub(super) fn notify(partitions: &Partitions, data: &[Value]) {
    let notify_all = || partitions.all().iter().for_each(|one| one.tail_signal.notify());
    let [Value::Array(keys)] = data else { return notify_all() };
    for key in keys {
        let Value::BulkString(key) = key else { return notify_all() };
        if let Some(partition) = partitions.of_stream(key) {
            partition.tail_signal.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_after_the_beginning_of_a_read_is_not_missed() {
        let signal = TailSignal::default();
        let wait = async || timeout(Duration::from_secs(1), signal.wait()).await.is_ok();
        signal.notify();
        signal.begin();
        assert!(!wait().await);
        signal.begin();
        signal.notify();
        assert!(wait().await);
        assert!(!wait().await);
    }
}
