//! Readers known to be over quota, who are refused without a call to Redis (`docs/contract.md`,
//! "Quota").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::domain::{Quota, UserId};

/// Readers that are remembered. For others Redis is called again.
const CAPACITY_READERS: usize = 100_000;

/// Readers that a probe compares with Redis.
const SAMPLE_READERS: usize = 64;

/// Denials by Redis, each for as long as Redis would deny again.
#[derive(Debug)]
pub(crate) struct Denials {
    readers: Cache<UserId, Denial>,
    generation: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Denial {
    quota: Quota,
    until: Instant,
    generation: Generation,
}

/// Distinguishes calls to Redis from before and after [`Denials::clear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Denials {
    pub(crate) fn new() -> Self {
        Self { readers: Cache::new(CAPACITY_READERS), generation: AtomicU64::new(0) }
    }

    /// Returns the current generation. Take it before a call to Redis: a denial that was under way
    /// during [`Self::clear`] is dropped too.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Remembers that Redis denied this reader, no longer than until Redis's own reset. Without `until`
    /// the reset is beyond the range of a clock, and nothing is remembered.
    pub(crate) fn insert(
        &self,
        reader: UserId,
        quota: Quota,
        until: Option<Instant>,
        generation: Generation,
    ) {
        if let Some(until) = until {
            self.readers.insert(reader, Denial { quota, until, generation });
        }
    }

    /// Returns the quota of a reader who is denied now, and the time until the reset.
    pub(crate) fn get(&self, reader: UserId) -> Option<(Quota, Duration)> {
        let denial = self.readers.get(&reader)?;
        let left = denial.until.checked_duration_since(Instant::now())?;
        let holds = !left.is_zero() && denial.generation == self.generation();
        holds.then_some((denial.quota, left))
    }

    /// Returns some of the readers who are denied now, of some, to be compared with Redis.
    pub(crate) fn sample(&self, is_of: impl Fn(UserId) -> bool) -> Vec<UserId> {
        let readers = self.readers.iter().map(|(reader, _)| reader);
        let denied = readers.filter(|reader| self.get(*reader).is_some());
        denied.filter(|reader| is_of(*reader)).take(SAMPLE_READERS).collect()
    }

    /// Removes everything: another Redis may answer, or this one was flushed.
    pub(crate) fn clear(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;
    use crate::simulation::{self, Simulation};

    fn reader() -> UserId {
        7.try_into().unwrap()
    }

    const QUOTA: Quota = Quota { limit: 1, remaining: 0, reset_at_ms: 1 };

    #[test]
    fn a_denial_lasts_until_the_reset() {
        let denials = Denials::new();
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        denials.insert(reader(), QUOTA, now.checked_add(minute), denials.generation());
        let (quota, left) = denials.get(reader()).unwrap();
        assert_eq!(quota, QUOTA);
        assert!(left <= minute, "{left:?}");

        denials.insert(reader(), QUOTA, now.checked_sub(minute), denials.generation());
        assert_eq!(denials.get(reader()), None);
    }

    #[test]
    fn a_denial_from_before_a_clear_is_dropped() {
        let denials = Denials::new();
        let until = Instant::now().checked_add(Duration::from_secs(60));
        denials.insert(reader(), QUOTA, until, denials.generation());
        assert!(denials.get(reader()).is_some());
        let before = denials.generation();
        denials.clear();
        assert_eq!(denials.get(reader()), None);
        denials.insert(reader(), QUOTA, until, before);
        assert_eq!(denials.get(reader()), None);
    }

    /// Calls of a window, and how long it is.
    const LIMIT: u64 = 3;
    const WINDOW: Duration = Duration::from_millis(300);

    /// A Redis that counts calls, and is flushed.
    #[derive(Default)]
    struct Model {
        windows: HashMap<UserId, (u64, Instant)>,
        /// Flushes that the server has not noticed yet.
        unnoticed: usize,
    }

    impl Model {
        /// Counts a call. Returns how long it is denied, if it is.
        fn call(&mut self, reader: UserId) -> Option<Duration> {
            let now = Instant::now();
            let window = self.windows.entry(reader).or_insert((0, now + WINDOW));
            if window.1 <= now {
                *window = (0, now + WINDOW);
            }
            let (used, end) = window;
            *used += 1;
            (*used > LIMIT).then(|| *end - now)
        }

        fn denies_until(&self, reader: UserId) -> Option<Instant> {
            let (used, end) = self.windows.get(&reader)?;
            (*used >= LIMIT && *end > Instant::now()).then_some(*end)
        }
    }

    /// Calls Redis where no denial is remembered, which may be late both ways.
    async fn call(simulation: Simulation, denials: Arc<Denials>, model: Arc<Mutex<Model>>) {
        for _ in 0..100 {
            simulation.pause(20).await;
            let reader = simulation.number(1..=3).try_into().unwrap();
            if let Some((_, left)) = denials.get(reader) {
                let model = model.lock().unwrap();
                let denied = model.denies_until(reader);
                simulation.note(format!("{reader:?} is denied for {left:?}"));
                let holds = denied.is_some_and(|until| Instant::now() + left <= until);
                simulation.require(holds || model.unnoticed > 0, || {
                    format!("{reader:?} is denied for {left:?}, by Redis until {denied:?}")
                });
                continue;
            }
            let (generation, sent_at) = (denials.generation(), Instant::now());
            simulation.pause(50).await;
            let denied = model.lock().unwrap().call(reader);
            simulation.pause(50).await;
            simulation.note(format!("{reader:?} calls: {denied:?}"));
            if let Some(left) = denied {
                denials.insert(reader, QUOTA, sent_at.checked_add(left), generation);
            }
        }
    }

    async fn simulate(simulation: Simulation) {
        let (denials, model) = (Arc::new(Denials::new()), Arc::<Mutex<Model>>::default());
        let calls: Vec<_> = (0..4)
            .map(|_| tokio::spawn(call(simulation.clone(), denials.clone(), model.clone())))
            .collect();
        while calls.iter().any(|call| !call.is_finished()) {
            simulation.pause(400).await;
            simulation.note("Redis is flushed");
            {
                let mut model = model.lock().unwrap();
                model.windows.clear();
                model.unnoticed += 1;
            }
            simulation.pause(100).await;
            simulation.note("the flush is noticed");
            denials.clear();
            model.lock().unwrap().unnoticed = 0;
        }
    }

    #[test]
    fn nobody_is_denied_longer_than_redis_denies() {
        simulation::run(100, simulate);
    }

    /// Threads that race as the machine lets them. The cache and its generation are shared without a lock that a
    /// simulation of threads could replace, so each thread yields at points that a seed decides.
    #[test]
    fn no_thread_sees_a_denial_of_before_a_clear() {
        let denials = Denials::new();
        // Flushes of Redis, and those after which the denials were cleared.
        let (flushed, cleared) = (AtomicU64::new(0), AtomicU64::new(0));
        let until = Instant::now().checked_add(Duration::from_secs(3600));
        let pause = |n: u64| {
            for _ in 0..n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            for thread in 0..3_u64 {
                let (denials, flushed, cleared) = (&denials, &flushed, &cleared);
                scope.spawn(move || {
                    for n in 0..5_000 {
                        let generation = denials.generation();
                        pause(n + thread);
                        let reset_at_ms = flushed.load(Ordering::SeqCst);
                        let quota = Quota { limit: 1, remaining: 0, reset_at_ms };
                        pause(n * 3 + thread);
                        denials.insert(reader(), quota, until, generation);
                        let least = cleared.load(Ordering::SeqCst);
                        let seen = denials.get(reader()).map(|(quota, _)| quota.reset_at_ms);
                        assert!(seen.is_none_or(|seen| seen >= least), "{seen:?} after {least}");
                    }
                });
            }
            scope.spawn(|| {
                for n in 1..=5_000 {
                    flushed.store(n, Ordering::SeqCst);
                    pause(n);
                    denials.clear();
                    cleared.store(n, Ordering::SeqCst);
                }
            });
        });
    }
}
