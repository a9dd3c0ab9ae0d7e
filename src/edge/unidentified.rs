//! Streams whose caller is unknown: reflection, and Health requests that are still incomplete. Anyone can
//! open them, so few are kept, and none for long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::domain::Refusal;
use crate::telemetry::metrics::{self, Bound};

/// Bounds of these streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnidentifiedLimits {
    /// Streams of a connection.
    pub(super) per_connection: usize,
    /// Streams of the process.
    pub(super) total: usize,
    /// How long nothing may be asked or answered on a stream.
    pub(super) silence: Duration,
    /// How long a stream may last.
    pub(super) lifetime: Duration,
}

impl Default for UnidentifiedLimits {
    fn default() -> Self {
        Self {
            per_connection: 8,
            total: 512,
            silence: Duration::from_secs(60),
            lifetime: Duration::from_secs(600),
        }
    }
}

/// When a stream of a connection that already has enough may be tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The unidentified streams of the process.
#[derive(Debug, Default)]
pub(super) struct UnidentifiedStreams {
    limits: UnidentifiedLimits,
    total: Arc<AtomicUsize>,
}

/// What a connection has open.
#[derive(Debug, Default)]
pub(super) struct ConnectionStreams {
    unidentified: AtomicUsize,
    /// A bit for each service whose health is watched.
    health_watches: AtomicU8,
}

/// An unidentified stream. Dropping it makes room for another one.
#[derive(Debug)]
pub(super) struct UnidentifiedStream {
    total: Arc<AtomicUsize>,
    connection: Arc<ConnectionStreams>,
    limits: UnidentifiedLimits,
}

impl UnidentifiedStreams {
    /// Counts a stream of a connection.
    ///
    /// # Errors
    ///
    /// The refusal of one more than are allowed, which is counted.
    pub(super) fn enter(
        &self,
        connection: &Arc<ConnectionStreams>,
    ) -> Result<UnidentifiedStream, Refusal> {
        let Self { limits, total } = self;
        let refusal = if !add_below(&connection.unidentified, limits.per_connection) {
            Refusal::EdgeLimited(RETRY_DELAY)
        } else if !add_below(total, limits.total) {
            connection.unidentified.fetch_sub(1, Ordering::Relaxed);
            Refusal::Overloaded
        } else {
            let (total, connection) = (Arc::clone(total), Arc::clone(connection));
            return Ok(UnidentifiedStream { total, connection, limits: *limits });
        };
        metrics::count_refused(Bound::UnidentifiedStreams);
        Err(refusal)
    }
}

/// Adds one, unless there are `max` already. Returns whether it did.
fn add_below(count: &AtomicUsize, max: usize) -> bool {
    let added = |count| (count < max).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).is_ok()
}

impl UnidentifiedStream {
    /// Begins to wait for its next request.
    pub(super) fn patience(&self) -> Patience {
        let UnidentifiedLimits { silence, lifetime, .. } = self.limits;
        let timer = Box::pin(sleep(silence.min(lifetime)));
        Patience { silence, end: Instant::now() + lifetime, timer }
    }
}

impl Drop for UnidentifiedStream {
    fn drop(&mut self) {
        self.total.fetch_sub(1, Ordering::Relaxed);
        self.connection.unidentified.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a stream is still waited for.
pub(super) struct Patience {
    silence: Duration,
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// Begins anew, since something was asked or answered.
    pub(super) fn renew(&mut self) {
        self.timer.as_mut().reset(self.end.min(Instant::now() + self.silence));
    }

    /// Polls for its end.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(cx)
    }
}

/// A watch of a service's health: the only one on its connection. Dropping it allows another one.
#[derive(Debug)]
pub(super) struct HealthWatch {
    connection: Arc<ConnectionStreams>,
    bit: u8,
}

impl HealthWatch {
    /// Takes the watch of the service with this index, below 8. Returns `None` if it is taken.
    pub(super) fn take(connection: &Arc<ConnectionStreams>, index: u8) -> Option<Self> {
        let bit = 1 << index;
        let before = connection.health_watches.fetch_or(bit, Ordering::Relaxed);
        (before & bit == 0).then(|| Self { connection: Arc::clone(connection), bit })
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.connection.health_watches.fetch_and(!self.bit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn streams(per_connection: usize, total: usize) -> UnidentifiedStreams {
        let limits = UnidentifiedLimits { per_connection, total, ..Default::default() };
        UnidentifiedStreams { limits, ..Default::default() }
    }

    #[test]
    fn a_connection_has_few_streams_and_all_connections_a_few_more() {
        let streams = streams(2, 3);
        let [first, second] = [(); 2].map(|()| Arc::new(ConnectionStreams::default()));
        let kept: Vec<_> = (0..2).map(|_| streams.enter(&first).unwrap()).collect();
        assert_eq!(streams.enter(&first).unwrap_err(), Refusal::EdgeLimited(RETRY_DELAY));
        let other = streams.enter(&second).unwrap();
        assert_eq!(streams.enter(&second).unwrap_err(), Refusal::Overloaded);
        drop(kept);
        let kept: Vec<_> = [&first, &second].map(|of| streams.enter(of).unwrap()).into();
        drop((kept, other));
        assert_eq!(streams.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_connection_watches_each_service_once() {
        let [first, second] = [(); 2].map(|()| Arc::new(ConnectionStreams::default()));
        let watch = HealthWatch::take(&first, 0).unwrap();
        assert!(HealthWatch::take(&first, 0).is_none());
        let others = [HealthWatch::take(&first, 1), HealthWatch::take(&second, 0)];
        assert!(others.iter().all(Option::is_some));
        drop(watch);
        assert!(HealthWatch::take(&first, 0).is_some());
        assert!(HealthWatch::take(&first, 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_a_minute_of_silence_or_ten_minutes() {
        let connection = Arc::new(ConnectionStreams::default());
        let stream = streams(1, 1).enter(&connection).unwrap();
        let began = Instant::now();
        let mut patience = stream.patience();
        poll_fn(|cx| patience.poll_end(cx)).await;
        assert_eq!(began.elapsed().as_secs(), 60);

        let began = Instant::now();
        let mut patience = stream.patience();
        while tokio::time::timeout(Duration::from_secs(50), poll_fn(|cx| patience.poll_end(cx)))
            .await
            .is_err()
        {
            patience.renew();
        }
        assert_eq!(began.elapsed().as_secs(), 600);
    }
}
