//! When a delivery that failed is attempted again.

use std::time::Duration;

/// The delay after each failure. With 20 attempts the last one comes 117 h after the first, a little before
/// the default of `--max-age` (120 h); a receiver that is back after seconds gets its events in seconds.
///
/// | failure | delay | since the first attempt |
/// | --- | --- | --- |
/// | 1, 2, 3 | 0.1 s, 0.2 s, 0.4 s | 0.7 s |
/// | 4, 5, 6, 7 | 1 s, 2 s, 5 s, 15 s | 24 s |
/// | 8, 9, 10 | 1 min, 5 min, 20 min | 26 min |
/// | 11, 12, 13 | 1 h, 4 h, 10 h | 15 h |
/// | 14 and later | 17 h | 117 h at failure 19 |
const DELAYS_MS: [u64; 14] = [
    100, 200, 400, 1_000, 2_000, 5_000, 15_000, 60_000, 300_000, 1_200_000, 3_600_000, 14_400_000,
    36_000_000, 61_200_000,
];

/// A receiver that fails now and then says nothing about an entry that failed: the delay stays at 1 s for the
/// first failures, and doubles then (64 s at failure 16). The last attempts keep the delays of the table, so
/// that an outage of a part of a receiver costs no event within a day.
const FLAKY_MAX_MS: u64 = 1_000;
const FLAKY_FAILURES: u32 = 10;
const FLAKY_LAST_FAILURE: u32 = 16;

/// Returns the delay after an entry's failure, counted from 1.
pub(super) fn delay(failures: u32, is_flaky: bool) -> Duration {
    let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let last = DELAYS_MS.len() - 1;
    let ms = DELAYS_MS.get(index.min(last)).copied().unwrap_or_default();
    let is_short = is_flaky && failures <= FLAKY_LAST_FAILURE;
    let doublings = failures.saturating_sub(FLAKY_FAILURES).min(FLAKY_LAST_FAILURE);
    Duration::from_millis(if is_short { ms.min(FLAKY_MAX_MS << doublings) } else { ms })
}

/// Spreads a delay by a fifth to either side. `random` is from 0 to 1.
pub(super) fn jitter(delay: Duration, random: f64) -> Duration {
    delay.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

/// Whether a waiting entry may be attempted early because its receiver is back: the last quarter of its
/// attempts keep their delays, so that a receiver that comes and goes does not use them up.
pub(super) fn may_hasten(attempts: u32, max_attempts: u32) -> bool {
    u64::from(attempts) * 4 < u64::from(max_attempts) * 3
}

/// Returns whether an event has the age at which it becomes a dead letter.
pub(super) fn is_too_old(entry_ms: u64, now_ms: u64, max_age: Duration) -> bool {
    age_left(entry_ms, now_ms, max_age).is_zero()
}

/// Returns the time until an event has that age.
pub(super) fn age_left(entry_ms: u64, now_ms: u64, max_age: Duration) -> Duration {
    max_age.saturating_sub(Duration::from_millis(now_ms.saturating_sub(entry_ms)))
}

/// Pauses between attempts to reach the store.
#[derive(Debug, Default)]
pub(super) struct StorePauses {
    failures: u32,
}

impl StorePauses {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(2);

    /// Returns the pause after a failure.
    pub(super) fn fail(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        (Self::FIRST * (1 << self.failures.min(8))).min(Self::MAX)
    }

    /// Notes a success.
    pub(super) fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn twenty_attempts_span_about_the_default_age() {
        let total: Duration = (1..20).map(|failures| delay(failures, false)).sum();
        assert!(total > 115 * HOUR && total < 120 * HOUR, "{total:?}");
        assert_eq!(delay(1, false), Duration::from_millis(100));
        assert_eq!(delay(1000, false), 17 * HOUR);
        assert!((1..30).all(|failures| delay(failures, false) <= delay(failures + 1, false)));
    }

    #[test]
    fn a_flaky_receiver_gets_its_events_soon_and_the_last_attempts_wait() {
        let total: Duration = (1..=16).map(|failures| delay(failures, true)).sum();
        assert!(total < Duration::from_secs(150), "{total:?}");
        assert_eq!(delay(8, true), Duration::from_secs(1));
        assert_eq!(delay(16, true), Duration::from_secs(64));
        let last: Duration = (17..20).map(|failures| delay(failures, true)).sum();
        assert!(last > 50 * HOUR, "{last:?}");
        assert_eq!(delay(u32::MAX, true), 17 * HOUR);
    }

    #[test]
    fn jitter_is_a_fifth() {
        let second = Duration::from_secs(1);
        assert_eq!(jitter(second, 0.0), Duration::from_millis(800));
        assert_eq!(jitter(second, 0.5), second);
        assert_eq!(jitter(second, 7.0), Duration::from_millis(1200));
    }

    #[test]
    fn the_last_quarter_of_the_attempts_is_not_hastened() {
        assert!(may_hasten(14, 20) && !may_hasten(15, 20));
        assert!(may_hasten(0, 1) && !may_hasten(1, 1));
        assert!(may_hasten(2, 4) && !may_hasten(3, 4));
    }

    #[test]
    fn age_is_by_the_entry_and_the_wall_clock() {
        let table = [
            (0, 999, false),
            (0, 1000, true),
            (500, 1499, false),
            (500, 1500, true),
            (9, 1, false),
        ];
        for (entry_ms, now_ms, expected) in table {
            let is_old = is_too_old(entry_ms, now_ms, Duration::from_secs(1));
            assert_eq!(is_old, expected, "{entry_ms} {now_ms}");
        }
    }

    #[test]
    fn pauses_of_the_store_grow_to_a_bound() {
        let mut pauses = StorePauses::default();
        let first = pauses.fail();
        assert!(first < pauses.fail());
        for _ in 0..100 {
            assert!(pauses.fail() <= StorePauses::MAX);
        }
        pauses.succeed();
        assert_eq!(pauses.fail(), first);
    }
}
