//! Readers known to be over quota, who are refused without a call to Redis (`docs/contract.md`,
//! "Quota").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

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
    use super::*;

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
}
