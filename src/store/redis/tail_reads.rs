//! When the end of a stream is read whose changes Redis reports: as seldom as it can be, since a read costs
//! Redis and this server more than an event does.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::tail_signal::TailSignal;
use crate::domain::Position;
use crate::store::{Entries, StoreError};

/// Least time from one read to the next that finds an entry: a read of a busy stream finds several
/// (`cargo bench --bench cluster`).
const GATHER_TIME: Duration = Duration::from_millis(5);

/// The last read of one stream.
#[derive(Debug, Default)]
pub(crate) struct TailReads(Mutex<Option<LastRead>>);

/// A read that found all there was.
#[derive(Debug)]
struct LastRead {
    began: Instant,
    end: Position,
}

impl TailReads {
    /// Waits for entries after a position, by reads of at most so many. For one caller at a time.
    ///
    /// What is not signalled is found all the same, by the call after one that has waited in vain.
    pub(crate) async fn wait<R>(
        &self,
        signal: &TailSignal,
        (after, limit): (Position, usize),
        wait: Duration,
        read: impl Fn() -> R,
    ) -> Result<Entries, StoreError>
    where
        R: Future<Output = Result<Entries, StoreError>>,
    {
        let until = Instant::now() + wait;
        // If this is dropped or fails, the next call reads at once.
        let last = self.swap(None).filter(|last| last.end == after);
        let mut complete_at = last.map(|last| last.began);
        loop {
            if let Some(read_at) = complete_at {
                if timeout_at(until, signal.wait()).await.is_err() {
                    return Ok(Entries::default());
                }
                sleep_until(read_at + GATHER_TIME).await;
            }
            signal.begin();
            let began = Instant::now();
            let entries = read().await?;
            if let Some((_, end)) = entries.span {
                if entries.count < limit {
                    self.swap(Some(LastRead { began, end }));
                }
                return Ok(entries);
            }
            complete_at = Some(began);
        }
    }

    fn swap(&self, last: Option<LastRead>) -> Option<LastRead> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), last)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::domain::EntryId;

    const WAIT: Duration = Duration::from_secs(1);
    const LIMIT: usize = 16;

    /// A stream, and the times at which its entries were added.
    #[derive(Default)]
    struct Stream {
        added_at: RefCell<Vec<Instant>>,
        signal: TailSignal,
        reads: Cell<usize>,
        log: TailReads,
    }

    impl Stream {
        fn add(&self) {
            self.added_at.borrow_mut().push(Instant::now());
            self.signal.notify();
        }

        /// Waits for entries after the first ones, and returns how many there are.
        async fn wait(&self, known: usize) -> usize {
            let read = async || {
                self.reads.set(self.reads.get() + 1);
                let added = self.added_at.borrow().len();
                let ids = (known + 1..=added).take(LIMIT).map(entry);
                Ok(Entries::parse(ids.map(|id| (id, ""))))
            };
            let after = (entry(known).into(), LIMIT);
            self.log.wait(&self.signal, after, WAIT, read).await.unwrap().count
        }

        fn take_reads(&self) -> usize {
            self.reads.take()
        }
    }

    fn entry(number: usize) -> EntryId {
        format!("{number}-0").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_stream_is_read_once_in_a_while() {
        let stream = Stream::default();
        let add = async {
            for _ in 0..1000 {
                stream.add();
                sleep(Duration::from_millis(1)).await;
            }
        };
        let mut longest = Duration::ZERO;
        let follow = async {
            let mut known = 0;
            while known < 1000 {
                let found = stream.wait(known).await;
                longest = longest.max(stream.added_at.borrow()[known].elapsed());
                known += found;
            }
        };
        tokio::join!(add, follow);
        assert!(stream.take_reads() <= 201);
        assert!(longest <= GATHER_TIME, "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_calm_stream_is_read_once_and_at_once_for_an_entry() {
        let stream = Stream::default();
        stream.add();
        assert_eq!(stream.wait(0).await, 1);
        for known in 1..10 {
            let add = async {
                sleep(GATHER_TIME * 2).await;
                stream.add();
                Instant::now()
            };
            stream.take_reads();
            let (added_at, found) = tokio::join!(add, stream.wait(known));
            assert_eq!((found, stream.take_reads(), added_at.elapsed()), (1, 1, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_may_not_be_the_end_is_read_at_once() {
        let stream = Stream::default();
        (0..LIMIT).for_each(|_| stream.add());
        assert_eq!(stream.wait(0).await, LIMIT);
        // After a full read.
        stream.signal.begin();
        stream.added_at.borrow_mut().push(Instant::now());
        assert_eq!(stream.wait(LIMIT).await, 1);
        // After another place than where the last read ended.
        assert_eq!(stream.wait(3).await, LIMIT - 2);
        // After a wait in vain.
        assert_eq!(stream.wait(LIMIT + 1).await, 0);
        stream.take_reads();
        stream.added_at.borrow_mut().push(Instant::now());
        assert_eq!((stream.wait(LIMIT + 1).await, stream.take_reads()), (1, 1));
        // After a wait that was given up.
        drop(timeout(GATHER_TIME, stream.wait(LIMIT + 2)).await);
        stream.added_at.borrow_mut().push(Instant::now());
        assert_eq!(stream.wait(LIMIT + 2).await, 1);
    }
}
