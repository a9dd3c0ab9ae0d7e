//! Worker threads: each has a runtime of its own, and serves its connections from their start to their end.
//!
//! A call is too short to be handed from thread to thread. What belongs to one worker, such as its
//! connection to Redis, is found by [`current`].

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Returns the index of the worker on whose thread this runs. On any other thread it is 0, the first one's.
pub fn current() -> usize {
    CURRENT.get()
}

/// The workers. Clones share them.
#[derive(Clone, Debug)]
pub struct Workers {
    workers: Arc<[Worker]>,
    /// Counts assignments, so that workers with equally many connections take turns.
    turn: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: AtomicUsize,
}

/// A connection of one worker, until this is dropped.
#[derive(Debug)]
pub(super) struct WorkerSlot {
    workers: Workers,
    index: usize,
}

impl Workers {
    /// Creates one worker, which is the current runtime.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn here() -> Self {
        Self::new([Handle::current()])
    }

    /// Creates several workers on the current runtime.
    #[cfg(test)]
    pub(crate) fn all_here(count: usize) -> Self {
        Self::new((0..count).map(|_| Handle::current()))
    }

    fn new(runtimes: impl IntoIterator<Item = Handle>) -> Self {
        let worker = |runtime| Worker { runtime, connections: AtomicUsize::new(0) };
        Self { workers: runtimes.into_iter().map(worker).collect(), turn: Arc::default() }
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Returns the runtime of a worker.
    pub fn runtime(&self, index: usize) -> Option<&Handle> {
        self.workers.get(index).map(|worker| &worker.runtime)
    }

    /// Assigns a connection to a worker with the fewest. Clients of gRPC keep few connections for long, which
    /// chance would spread unevenly.
    pub(super) fn assign(&self) -> WorkerSlot {
        let (turn, count) = (self.turn.fetch_add(1, Ordering::Relaxed), self.count());
        let in_turn = (0..count).map(|n| turn.wrapping_add(n) % count);
        let connections = |index: &usize| {
            self.workers.get(*index).map(|worker| worker.connections.load(Ordering::Relaxed))
        };
        let index = in_turn.min_by_key(connections).unwrap_or_default();
        if let Some(worker) = self.workers.get(index) {
            worker.connections.fetch_add(1, Ordering::Relaxed);
        }
        WorkerSlot { workers: self.clone(), index }
    }
}

impl WorkerSlot {
    /// Returns the worker's runtime.
    pub(super) fn runtime(&self) -> Option<&Handle> {
        self.workers.runtime(self.index)
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        if let Some(worker) = self.workers.workers.get(self.index) {
            worker.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The threads of workers.
#[derive(Debug)]
pub struct WorkerThreads {
    workers: Workers,
    stop: CancellationToken,
    /// Disconnected when the last thread has ended.
    threads: mpsc::Receiver<Infallible>,
}

impl WorkerThreads {
    /// Starts so many threads.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (alive, threads) = mpsc::channel();
        let mut runtimes = Vec::with_capacity(count);
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.push(runtime.handle().clone());
            let (stop, alive) = (stop.clone(), alive.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                CURRENT.set(index);
                runtime.block_on(stop.cancelled());
                runtime.shutdown_background();
                drop(alive);
            })?;
        }
        Ok(Self { workers: Workers::new(runtimes), stop, threads })
    }

    /// Returns the workers.
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// Ends the threads and what is under way on them, and waits for that within a limit.
    pub fn stop(self, limit: Duration) {
        self.stop.cancel();
        // Nothing is ever sent.
        let _ = self.threads.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(slots: &[WorkerSlot]) -> Vec<usize> {
        let mut spread = vec![0; 3];
        for slot in slots {
            spread[slot.index] += 1;
        }
        spread
    }

    #[tokio::test]
    async fn a_connection_goes_where_the_fewest_are() {
        let workers = Workers::all_here(3);
        let mut slots: Vec<_> = (0..9).map(|_| workers.assign()).collect();
        assert_eq!(spread(&slots), [3, 3, 3]);
        slots.retain(|slot| slot.index != 1);
        slots.extend((0..3).map(|_| workers.assign()));
        assert_eq!(spread(&slots), [3, 3, 3]);
    }

    #[tokio::test]
    async fn workers_with_equally_many_take_turns() {
        let workers = Workers::all_here(3);
        let mut indices: Vec<_> = (0..3).map(|_| workers.assign().index).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 1, 2]);
    }

    #[test]
    fn each_worker_has_a_thread_that_knows_its_index() {
        let threads = WorkerThreads::start(3).unwrap();
        let workers = threads.workers();
        assert_eq!(workers.count(), 3);
        for index in 0..3 {
            let (sender, receiver) = mpsc::channel();
            workers.runtime(index).unwrap().spawn(async move {
                let name = thread::current().name().map(str::to_owned);
                sender.send((current(), name)).unwrap();
            });
            let named = Some(format!("worker-{index}"));
            assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok((index, named)));
        }
        assert_eq!(current(), 0);
        assert!(workers.runtime(3).is_none());
    }

    #[test]
    fn stopped_threads_drop_what_is_under_way() {
        let threads = WorkerThreads::start(2).unwrap();
        let (sender, receiver) = mpsc::channel::<()>();
        let under_way = async move {
            std::future::pending::<()>().await;
            drop(sender);
        };
        threads.workers().runtime(1).unwrap().spawn(under_way);
        threads.stop(Duration::from_secs(5));
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
