//! Readers known to be over quota, so that they are refused without asking Redis: CONTRACT
//! section 5.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::domain::{Quota, UserId};

/// How many readers are remembered; beyond that Redis is asked again.
const CAPACITY_READERS: usize = 100_000;

/// How many readers are held against Redis at once.
const CHECKED_READERS: usize = 64;

/// What Redis has denied, for as long as it would deny it again.
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

/// When Redis was asked: before or after everything was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Denials {
    pub(crate) fn new() -> Self {
        Self { readers: Cache::new(CAPACITY_READERS), generation: AtomicU64::new(0) }
    }

    /// To be taken before Redis is asked: a denial that was on its way when everything was
    /// forgotten is forgotten too.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Remembers that Redis denied this reader, until Redis's own reset at the latest. A reset
    /// past the end of time, which a key may hold, is not worth remembering.
    pub(crate) fn remember(
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

    /// The used-up quota of a reader who is known to be denied now, and for how long.
    pub(crate) fn of(&self, reader: UserId) -> Option<(Quota, Duration)> {
        let denial = self.readers.get(&reader)?;
        let left = denial.until.checked_duration_since(Instant::now())?;
        let holds = !left.is_zero() && denial.generation == self.generation();
        holds.then_some((denial.quota, left))
    }

    /// Some of the readers who are denied now, to be held against what Redis says.
    pub(crate) fn some_readers(&self) -> Vec<UserId> {
        let readers = self.readers.iter().map(|(reader, _)| reader);
        readers.filter(|reader| self.of(*reader).is_some()).take(CHECKED_READERS).collect()
    }

    /// Forgets everything: another Redis may answer, or this one was flushed.
    pub(crate) fn forget(&self) {
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
        denials.remember(reader(), QUOTA, now.checked_add(minute), denials.generation());
        let (quota, left) = denials.of(reader()).unwrap();
        assert_eq!(quota, QUOTA);
        assert!(left <= minute, "{left:?}");

        denials.remember(reader(), QUOTA, now.checked_sub(minute), denials.generation());
        assert_eq!(denials.of(reader()), None);
    }

    #[test]
    fn what_was_forgotten_stays_forgotten_even_if_its_answer_comes_later() {
        let denials = Denials::new();
        let until = Instant::now().checked_add(Duration::from_secs(60));
        denials.remember(reader(), QUOTA, until, denials.generation());
        assert!(denials.of(reader()).is_some());
        let before = denials.generation();
        denials.forget();
        assert_eq!(denials.of(reader()), None);
        denials.remember(reader(), QUOTA, until, before);
        assert_eq!(denials.of(reader()), None);
    }
}
