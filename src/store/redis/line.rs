//! A line of calls that wait for Redis. It is first in, first out, until more calls come than are served: then the
//! newest goes first, and those that have waited long are refused.
//!
//! A burst that is served in the end, and a Redis that stands still for a while, refuse nobody: only a line that
//! stays long does, as in `CoDel` (RFC 8289). The newest goes first then because in the order of arrival every call
//! would wait as long as one that is refused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A call that has waited this long makes the line long. At 60,000 calls a second these are 1,800 calls.
const LONG: Duration = Duration::from_millis(30);

/// How long the line must have been long without a break before calls are refused.
const LASTING: Duration = Duration::from_millis(100);

/// The worker is busy if a task that is ready waits this share of a round trip until it runs. A round trip in which
/// Redis is what takes long has few such waits in it; one in which the worker is has about four.
const BUSY_SHARE: u32 = 8;

/// Calls that wait.
pub(crate) struct Line<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Since when it has been long.
    long_since: Option<Instant>,
    is_overloaded: bool,
    /// How long a task that is ready has waited until it ran.
    delay: Duration,
}

struct Waiting<T> {
    since: Instant,
    call: T,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        let waiting = VecDeque::new();
        Self { waiting, long_since: None, is_overloaded: false, delay: Duration::ZERO }
    }
}

impl<T> Line<T> {
    /// Returns whether it is long, so that it matters how busy the worker is.
    pub(crate) fn is_long(&self) -> bool {
        self.long_since.is_some()
    }

    /// Returns how many calls wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Notes how long a task that was ready has waited until it ran. What is short at once may be chance, and would
    /// refuse everybody.
    pub(crate) fn note_delay(&mut self, delay: Duration) {
        self.delay = delay.max(self.delay.saturating_sub(self.delay / 16));
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

    /// Takes the calls that are refused, after others have left to be served. One that takes Redis longer than
    /// a call may wait, since Redis is far away, makes no line long.
    pub(crate) fn take_refused(
        &mut self,
        round_trip: Duration,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let Some(oldest) = self.waiting.front() else {
            (self.long_since, self.is_overloaded) = (None, false);
            return Vec::new();
        };
        let (now, longest) = (Instant::now(), LONG.max(round_trip));
        if self.delay * BUSY_SHARE > round_trip && now - oldest.since >= longest {
            // A refusal would take the CPU from calls that are served.
            (self.long_since, self.is_overloaded) = (Some(now), false);
            return Vec::new();
        }
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
        let mut refused = Vec::new();
        while self.waiting.front().is_some_and(|oldest| now - oldest.since >= longest) {
            // Callers that have given up are not answered.
            refused.extend(self.waiting.pop_front().map(|next| next.call).filter(&is_wanted));
        }
        refused
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

    fn take_refused(line: &mut Line<u32>) -> Vec<u32> {
        line.take_refused(Duration::from_millis(5), |_| true)
    }

    /// A line into which three calls come for each that is served, every 10 ms, until it refuses.
    async fn overloaded() -> Line<u32> {
        let mut line = Line::default();
        for number in 0.. {
            (0..3).for_each(|nth| line.push(3 * number + nth));
            pop(&mut line, 1);
            if !take_refused(&mut line).is_empty() {
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
            assert_eq!(take_refused(&mut line), NONE);
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
            assert_eq!(take_refused(&mut line), NONE);
            advance(MS).await;
        }
        assert_eq!(line.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_stays_long_serves_the_newest_and_refuses_the_oldest() {
        let mut line = overloaded().await;
        assert!(line.is_overloaded);
        assert!(line.len() <= 9, "what waited for 30 ms is gone: {}", line.len());
        line.push(1000);
        line.push(1001);
        assert_eq!(pop(&mut line, 1), [1001]);
        advance(40 * MS).await;
        let refused = take_refused(&mut line);
        assert!(refused.is_sorted() && refused.ends_with(&[1000]), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_worker_refuses_nobody() {
        let mut line = overloaded().await;
        (0..100).for_each(|number| line.push(number));
        advance(40 * MS).await;
        line.note_delay(2 * MS);
        for _ in 0..10 {
            assert_eq!(take_refused(&mut line), NONE);
            advance(50 * MS).await;
        }
        assert!(line.is_long() && !line.is_overloaded);
        (0..30).for_each(|_| line.note_delay(MS / 2));
        assert_eq!(take_refused(&mut line), NONE, "that may be chance");
        advance(100 * MS).await;
        assert!(take_refused(&mut line).len() >= 100, "it is Redis that is slow");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_line_is_a_new_beginning() {
        let mut line = overloaded().await;
        let left = line.len();
        pop(&mut line, left);
        assert_eq!(take_refused(&mut line), NONE);
        assert!(!line.is_overloaded);
        (0..2).for_each(|number| line.push(number));
        advance(50 * MS).await;
        assert_eq!(take_refused(&mut line), NONE);
        assert_eq!(pop(&mut line, 2), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_is_far_away_makes_no_line_long() {
        let mut line = Line::default();
        for number in 0..100 {
            (0..3).for_each(|nth| line.push(3 * number + nth));
            advance(50 * MS).await;
            pop(&mut line, 2);
            let refused = line.take_refused(Duration::from_secs(60), |_| true);
            assert_eq!(refused, NONE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_have_given_up_are_not_refused() {
        let mut line = overloaded().await;
        (0..10).for_each(|number| line.push(number));
        advance(40 * MS).await;
        assert_eq!(
            line.take_refused(MS, |number| number % 2 == 0 && *number < 10),
            [0, 2, 4, 6, 8]
        );
        assert_eq!(line.len(), 0);
    }
}
