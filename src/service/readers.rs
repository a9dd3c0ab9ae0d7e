//! Bounds on what one reader may have under way: calls, and open watches.
//!
//! A call takes a place, or waits for one in the order of arrival, behind its own reader's calls only.
//! Pages and batches ("heavy" calls) wait for a second kind of place first, so that those that wait do
//! not stand in front of light calls.
//!
//! A heavy call costs what hundreds of marks do. So while others call too, the place of one is free again only
//! after a pause, in which each of them may have as much: a reader who does nothing but heavy calls gets about as
//! much as anybody else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::domain::UserId;
use crate::telemetry::metrics::{Bound, count_refused};

/// Pages and batches of a reader under way at the same time.
const HEAVY_MAX: usize = 2;

/// Calls of a reader that wait for a place.
const WAITING_MAX: usize = 1024;

/// Calls beyond [`WAITING_MAX`] that wait too while the queue moves, and how long it may stand still.
/// So 1,500 marks that arrive within milliseconds are all answered by the quota.
const BURST_MAX: usize = 512;
const STANDSTILL_MAX: Duration = Duration::from_millis(500);

/// The longest pause after a heavy call: a device that reads its whole list is not held up for long.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The shortest one. Timers have milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Open watches of a reader.
const WATCHES_MAX: usize = 64;

/// How much a call costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A mark or a state.
    Light,
    /// A page or a batch.
    Heavy,
}

/// Why there is no place for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Too many calls of the reader wait already.
    TooMany,
    /// The call waited until its deadline.
    Late,
}

/// The calls and watches of all readers who have any.
pub struct Readers {
    places: usize,
    present: Mutex<HashMap<UserId, Present>>,
    /// How many readers have calls.
    calling: AtomicUsize,
}

/// A reader who has calls or watches, and how many refer to it.
struct Present {
    users: usize,
    /// How many of those are calls.
    calls: usize,
    reader: Arc<Reader>,
}

struct Reader {
    places: Semaphore,
    heavy_places: Semaphore,
    waiting: AtomicUsize,
    /// Calls that have waited and got a place: it rises while the queue moves.
    moved: AtomicUsize,
    watches: AtomicUsize,
}

/// A call of a reader under way, until it is dropped.
pub struct CallPlace {
    /// Since when a heavy call is under way; `None` for a light one.
    heavy_since: Option<Instant>,
    // `None` only while this is dropped.
    visit: Option<Visit>,
}

/// An open watch of a reader, until it is dropped.
pub struct WatchPlace(Visit);

/// Keeps the entry of a reader, until it is dropped.
struct Visit {
    id: UserId,
    is_call: bool,
    reader: Arc<Reader>,
    readers: Arc<Readers>,
}

/// A call that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Readers {
    /// Creates the bounds, with a number of places for the calls of each reader.
    pub fn new(places: u32) -> Arc<Self> {
        let places = usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS);
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { places, present: Mutex::default(), calling: AtomicUsize::new(0) })
    }

    /// Takes a place, if one is free and no call waits for it.
    pub fn try_enter(self: &Arc<Self>, id: UserId, weight: Weight) -> Option<CallPlace> {
        let visit = self.visit(id, true);
        let reader = &visit.reader;
        if weight == Weight::Heavy {
            let heavy = reader.heavy_places.try_acquire().ok()?;
            reader.places.try_acquire().ok()?.forget();
            heavy.forget();
        } else {
            reader.places.try_acquire().ok()?.forget();
        }
        Some(CallPlace::new(weight, visit))
    }

    /// Returns whether as many calls of a reader wait as may, which is counted as a refusal.
    pub fn refuses(&self, id: UserId) -> bool {
        let is_full = self
            .readers()
            .get(&id)
            .is_some_and(|present| present.reader.waiting.load(Ordering::Relaxed) >= WAITING_MAX);
        if is_full {
            count_refused(Bound::ReaderConcurrency);
        }
        is_full
    }

    /// Waits for a place until a deadline.
    ///
    /// # Errors
    ///
    /// [`NoPlace`], which is counted.
    pub async fn enter(
        self: &Arc<Self>,
        id: UserId,
        weight: Weight,
        deadline: Instant,
    ) -> Result<CallPlace, NoPlace> {
        let entered = self.wait(id, weight, deadline).await;
        if entered.is_err() {
            count_refused(Bound::ReaderConcurrency);
        }
        entered
    }

    async fn wait(
        self: &Arc<Self>,
        id: UserId,
        weight: Weight,
        deadline: Instant,
    ) -> Result<CallPlace, NoPlace> {
        let visit = self.visit(id, true);
        let waiting = Waiting::new(&visit.reader.waiting);
        if waiting.others() >= WAITING_MAX + BURST_MAX {
            return Err(NoPlace::TooMany);
        }
        let entered = {
            let place = timeout_at(deadline, visit.reader.take_place(weight));
            let mut place = std::pin::pin!(place);
            loop {
                if waiting.others() < WAITING_MAX {
                    break place.await;
                }
                let moved = visit.reader.moved.load(Ordering::Relaxed);
                if let Ok(entered) = timeout(STANDSTILL_MAX, &mut place).await {
                    break entered;
                }
                let stands_still = visit.reader.moved.load(Ordering::Relaxed) == moved;
                if stands_still && waiting.others() >= WAITING_MAX {
                    return Err(NoPlace::TooMany);
                }
            }
        };
        entered.map_err(|_| NoPlace::Late)?;
        visit.reader.moved.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        Ok(CallPlace::new(weight, visit))
    }

    /// Counts a watch of a reader; `None` if it has too many, which is counted as a refusal.
    pub fn open_watch(self: &Arc<Self>, id: UserId) -> Option<WatchPlace> {
        let place = WatchPlace(self.visit(id, false));
        if place.0.reader.watches.fetch_add(1, Ordering::Relaxed) < WATCHES_MAX {
            return Some(place);
        }
        count_refused(Bound::ReaderWatches);
        None
    }

    fn visit(self: &Arc<Self>, id: UserId, is_call: bool) -> Visit {
        let mut readers = self.readers();
        let present = readers.entry(id).or_insert_with(|| Present {
            users: 0,
            calls: 0,
            reader: Arc::new(Reader {
                places: Semaphore::new(self.places),
                heavy_places: Semaphore::new(HEAVY_MAX),
                waiting: AtomicUsize::new(0),
                moved: AtomicUsize::new(0),
                watches: AtomicUsize::new(0),
            }),
        });
        present.users += 1;
        present.count_call(is_call, &self.calling);
        Visit { id, is_call, reader: Arc::clone(&present.reader), readers: Arc::clone(self) }
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<UserId, Present>> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn count_call(&mut self, is_call: bool, calling: &AtomicUsize) {
        if is_call {
            calling.fetch_add(usize::from(self.calls == 0), Ordering::Relaxed);
            self.calls += 1;
        }
    }

    fn end_call(&mut self, is_call: bool, calling: &AtomicUsize) {
        if is_call {
            self.calls -= 1;
            calling.fetch_sub(usize::from(self.calls == 0), Ordering::Relaxed);
        }
    }
}

impl CallPlace {
    fn new(weight: Weight, visit: Visit) -> Self {
        let heavy_since = (weight == Weight::Heavy).then(Instant::now);
        Self { heavy_since, visit: Some(visit) }
    }
}

impl Visit {
    /// Returns how long the place of a heavy call stays taken after it.
    fn pause(&self, took: Duration) -> Duration {
        let others = self.readers.calling.load(Ordering::Relaxed).saturating_sub(1);
        took.saturating_mul(u32::try_from(others).unwrap_or(u32::MAX)).min(PAUSE_MAX)
    }

    /// Stops counting as a call.
    fn end_call(&mut self) {
        if let Some(present) = self.readers.readers().get_mut(&self.id) {
            present.end_call(self.is_call, &self.readers.calling);
        }
        self.is_call = false;
    }

    fn free_heavy_place(&self) {
        self.reader.heavy_places.add_permits(1);
    }
}

impl Reader {
    /// Takes a place. Both queues are in the order of arrival.
    async fn take_place(&self, weight: Weight) {
        // The semaphores are never closed.
        let heavy = match weight {
            Weight::Heavy => self.heavy_places.acquire().await.ok(),
            Weight::Light => None,
        };
        if let Ok(place) = self.places.acquire().await {
            place.forget();
        }
        if let Some(heavy) = heavy {
            heavy.forget();
        }
    }
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    /// Returns how many calls wait beside this one.
    fn others(&self) -> usize {
        self.0.load(Ordering::Relaxed).saturating_sub(1)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        let Some(mut visit) = self.visit.take() else { return };
        visit.reader.places.add_permits(1);
        let Some(since) = self.heavy_since else { return };
        let pause = visit.pause(since.elapsed());
        match Handle::try_current() {
            Ok(runtime) if pause >= PAUSE_MIN => {
                visit.end_call();
                runtime.spawn(async move {
                    sleep(pause).await;
                    visit.free_heavy_place();
                });
            }
            _ => visit.free_heavy_place(),
        }
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        self.0.reader.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut present) = self.readers.readers().entry(self.id) {
            present.get_mut().users -= 1;
            present.get_mut().end_call(self.is_call, &self.readers.calling);
            if present.get().users == 0 {
                present.remove();
            }
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl fmt::Debug for CallPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallPlace").finish_non_exhaustive()
    }
}

impl fmt::Debug for WatchPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchPlace").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
