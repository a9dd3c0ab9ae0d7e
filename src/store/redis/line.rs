//! A line of calls that wait for Redis. It is first in, first out, until more calls come than are served: then the
//! newest goes first, and those that have waited long are refused.
//!
//! A burst that is served in the end, and a Redis that stands still for a while, refuse nobody: only a line that
//! stays long does, as in CoDel (RFC 8289). The newest goes first then because in the order of arrival every call
//! would wait as long as one that is refused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// A call that has waited this long makes the line long. At 60,000 calls a second these are 1,800 calls.
const LONG: Duration = Duration::from_millis(30);

/// How long the line must have been long without a break before calls are refused.
const LASTING: Duration = Duration::from_millis(100);

/// The share of time, in percent, past which a worker is busy: then refusals compete with calls that are served.
const BUSY_PERCENT: u128 = 70;

/// While the worker is busy, one call may be refused for so many that are served: a refusal costs about half as
/// much, and the served ones are to keep 80 % of the worker's time.
const SERVED_PER_REFUSAL: usize = 4;

/// The shortest time over which a worker's load is measured.
const LOAD_INTERVAL: Duration = Duration::from_millis(20);

/// Calls that wait.
pub(crate) struct Line<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Since when it has been long.
    long_since: Option<Instant>,
    is_overloaded: bool,
    load: Load,
    /// Calls that were served since the last refusal.
    served: usize,
}

struct Waiting<T> {
    since: Instant,
    call: T,
}

/// How busy this worker is.
#[derive(Default)]
struct Load {
    measured: Option<(Instant, Duration)>,
    is_busy: bool,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        let (waiting, load) = Default::default();
        Self { waiting, long_since: None, is_overloaded: false, load, served: 0 }
    }
}

impl<T> Line<T> {
    /// Returns whether calls are refused.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }

    /// Returns how many calls wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a call.
    pub(crate) fn push(&mut self, call: T) {
        self.waiting.push_back(Waiting { since: Instant::now(), call });
    }

    /// Returns the call whose turn it is.
    pub(crate) fn peek(&self) -> Option<&T> {
        let next = if self.is_overloaded { self.waiting.back() } else { self.waiting.front() };
        next.map(|next| &next.call)
    }

    /// Takes the call whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let next =
            if self.is_overloaded { self.waiting.pop_back() } else { self.waiting.pop_front() };
        next.map(|next| next.call)
    }

    /// Takes the calls that are refused, after so many have left to be served. One that takes Redis longer than
    /// a call may wait, since Redis is far away, makes no line long.
    pub(crate) fn take_refused(
        &mut self,
        served: usize,
        round_trip: Duration,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let Some(oldest) = self.waiting.front() else {
            (self.long_since, self.is_overloaded, self.served) = (None, false, 0);
            return Vec::new();
        };
        let (now, longest) = (Instant::now(), LONG.max(round_trip));
        if !self.is_overloaded {
            if now - oldest.since < longest {
                self.long_since = None;
                return Vec::new();
            }
            if now - *self.long_since.get_or_insert(now) < LASTING {
                return Vec::new();
            }
            self.is_overloaded = true;
        }
        self.served += served;
        let most =
            if self.load.is_busy(now) { self.served / SERVED_PER_REFUSAL } else { self.len() };
        let mut refused = Vec::new();
        while refused.len() < most
            && self.waiting.front().is_some_and(|oldest| now - oldest.since >= longest)
        {
            // Callers that have given up are not answered.
            refused.extend(self.waiting.pop_front().map(|next| next.call).filter(&is_wanted));
        }
        self.served = self.served.saturating_sub(refused.len() * SERVED_PER_REFUSAL);
        self.served = self.served.min(SERVED_PER_REFUSAL * SERVED_PER_REFUSAL);
        refused
    }
}

impl Load {
    fn is_busy(&mut self, now: Instant) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        let busy = |runtime: &Handle| runtime.metrics().worker_total_busy_duration(0);
        match self.measured {
            Some((at, _)) if now - at < LOAD_INTERVAL => {}
            Some((at, before)) => {
                let total = busy(&runtime);
                let spent = total.saturating_sub(before).as_nanos();
                self.is_busy = spent * 100 > (now - at).as_nanos() * BUSY_PERCENT;
                self.measured = Some((now, total));
            }
            None => self.measured = Some((now, busy(&runtime))),
        }
        self.is_busy
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NONE: [u32; 0] = [];

    fn pop(line: &mut Line<u32>, count: usize) -> Vec<u32> {
        (0..count).filter_map(|_| line.pop()).collect()
    }

    fn take_refused(line: &mut Line<u32>, served: usize) -> Vec<u32> {
        line.take_refused(served, Duration::ZERO, |_| true)
    }

    /// A line into which three calls come for each that is served, every 10 ms, until it refuses.
    async fn overloaded() -> Line<u32> {
        let mut line = Line::default();
        for number in 0.. {
            (0..3).for_each(|nth| line.push(3 * number + nth));
            pop(&mut line, 1);
            if !take_refused(&mut line, 1).is_empty() {
                break;
            }
            advance(10 * MS).await;
        }
        line
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_served_in_order() {
        let mut line = Line::default();
        (0..5000).for_each(|number| line.push(number));
        let mut served = Vec::new();
        // 5,000 calls at once, of which 64 are served each ms.
        while line.len() > 0 {
            advance(MS).await;
            served.extend(pop(&mut line, 64));
            assert_eq!(take_refused(&mut line, 64), NONE);
        }
        assert_eq!(served, (0..5000).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_while_redis_stood_still_is_served() {
        let mut line = Line::default();
        (0..4000).for_each(|number| line.push(number));
        advance(1500 * MS).await;
        for _ in 0..63 {
            pop(&mut line, 64);
            assert_eq!(take_refused(&mut line, 64), NONE);
            advance(MS).await;
        }
        assert_eq!(line.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_stays_long_serves_the_newest_and_refuses_the_oldest() {
        let mut line = overloaded().await;
        assert!(line.is_overloaded());
        assert!(line.len() <= 9, "what waited for 30 ms is gone: {}", line.len());
        line.push(1000);
        line.push(1001);
        assert_eq!(pop(&mut line, 1), [1001]);
        advance(40 * MS).await;
        let refused = take_refused(&mut line, 1);
        assert!(refused.is_sorted() && refused.ends_with(&[1000]), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_line_is_a_new_beginning() {
        let mut line = overloaded().await;
        let left = line.len();
        pop(&mut line, left);
        assert_eq!(take_refused(&mut line, left), NONE);
        assert!(!line.is_overloaded());
        (0..2).for_each(|number| line.push(number));
        advance(50 * MS).await;
        assert_eq!(take_refused(&mut line, 1), NONE);
        assert_eq!(pop(&mut line, 2), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_is_far_away_makes_no_line_long() {
        let mut line = Line::default();
        for number in 0..100 {
            (0..3).for_each(|nth| line.push(3 * number + nth));
            advance(50 * MS).await;
            pop(&mut line, 2);
            let refused = line.take_refused(2, Duration::from_secs(60), |_| true);
            assert_eq!(refused, NONE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_have_given_up_are_not_refused() {
        let mut line = overloaded().await;
        (0..10).for_each(|number| line.push(number));
        advance(40 * MS).await;
        assert_eq!(
            line.take_refused(1, Duration::ZERO, |number| number % 2 == 0 && *number < 10),
            [0, 2, 4, 6, 8]
        );
        assert_eq!(line.len(), 0);
    }
}
