//! Reads and batches under way at one Redis, of one worker.
//!
//! They are sent as they come, so without a bound they would stand in Redis's own line, in front of marks: there
//! nobody can refuse them. So as many are under way as keep Redis busy, counted by what they cost it, and the
//! others wait in a [`Line`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::Line;
use crate::store::StoreError;

/// What may be under way, in reads of one state, which costs Redis about 12 µs. One call that costs more may
/// be under way alone.
const WEIGHT_MAX: usize = 256;

/// What a call costs Redis, in reads of one state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight(usize);

impl Weight {
    /// Of a script that touches a key or two.
    pub(crate) const ONE: Self = Self(1);

    /// Of a read of so many cursors: eight of a batch or a page cost as much as one that is alone.
    pub(crate) const fn of_cursors(count: usize) -> Self {
        Self(1 + count / 8)
    }

    /// Of a batch of so many marks.
    pub(crate) const fn of_marks(count: usize) -> Self {
        Self(1 + count / 2)
    }

    /// Of one of so many calls that may be under way.
    pub(crate) const fn one_of(calls: usize) -> Self {
        Self(if calls == 0 { WEIGHT_MAX } else { WEIGHT_MAX.div_ceil(calls) })
    }
}

/// Lets calls pass.
#[derive(Default)]
pub(crate) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: usize,
    line: Line<Waiter>,
}

struct Waiter {
    weight: Weight,
    reply: oneshot::Sender<Result<Passed, StoreError>>,
}

/// A call under way, until it is dropped.
pub(crate) struct Passed {
    gate: Arc<Gate>,
    weight: Weight,
    since: Instant,
}

impl Gate {
    /// Passes at once if there is room, and waits otherwise.
    ///
    /// # Errors
    ///
    /// If more calls come than are served.
    pub(crate) async fn pass(self: &Arc<Self>, weight: Weight) -> Result<Passed, StoreError> {
        let waiting = {
            let mut state = self.state();
            if state.line.len() == 0 && state.has_room(weight) {
                return Ok(self.passed(&mut state, weight));
            }
            let (reply, waiting) = oneshot::channel();
            state.line.push(Waiter { weight, reply });
            waiting
        };
        // The sender is dropped only with the gate.
        let passed = waiting.await.unwrap_or_else(|gone| Err(StoreError::unavailable(gone)))?;
        self.state().line.note_delay(passed.since.elapsed());
        Ok(passed)
    }

    fn passed(self: &Arc<Self>, state: &mut State, weight: Weight) -> Passed {
        state.under_way += weight.0;
        Passed { gate: Arc::clone(self), weight, since: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a call, and lets those pass for which there is room now.
    fn leave(self: &Arc<Self>, left: &Passed) {
        let (mut let_in, mut refused) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            state.under_way -= left.weight.0;
            while let Some(next) = state.line.peek()
                && (next.reply.is_closed() || state.has_room(next.weight))
            {
                // A call whose caller has given up is never sent.
                if let Some(next) = state.line.pop().filter(|next| !next.reply.is_closed()) {
                    let_in.push((self.passed(&mut state, next.weight), next.reply));
                }
            }
            // Also of an empty line, which ends an overload.
            let round_trip = left.since.elapsed();
            let is_wanted = |waiter: &Waiter| !waiter.reply.is_closed();
            refused.extend(state.line.take_refused(round_trip, is_wanted));
        }
        // Without the lock: a caller that is gone gives its place back at once.
        for (passed, reply) in let_in {
            let _ = reply.send(Ok(passed));
        }
        for Waiter { reply, .. } in refused {
            let _ = reply.send(Err(StoreError::overloaded()));
        }
    }
}

impl State {
    fn has_room(&self, weight: Weight) -> bool {
        self.under_way == 0 || self.under_way + weight.0 <= WEIGHT_MAX
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        let gate = Arc::clone(&self.gate);
        gate.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;
    use crate::store::StoreErrorKind;

    fn pass(gate: &Arc<Gate>, weight: Weight) -> impl Future<Output = Result<Passed, StoreError>> {
        let gate = Arc::clone(gate);
        // Begins at once, so that it stands in the line.
        let mut call = Box::pin(async move { gate.pass(weight).await });
        let first = call.as_mut().now_or_never();
        async move {
            match first {
                Some(passed) => passed,
                None => call.await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_leaves_room_for_fewer() {
        let gate = Arc::<Gate>::default();
        let heavy = pass(&gate, Weight::of_cursors(1000)).await.unwrap();
        let second = pass(&gate, Weight::of_cursors(1000)).await.unwrap();
        let mut third = Box::pin(pass(&gate, Weight::of_cursors(1000)));
        let mut light = Box::pin(pass(&gate, Weight::ONE));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(light.as_mut().now_or_never().is_none(), "it does not overtake");
        drop(heavy);
        let third = third.now_or_never().unwrap().unwrap();
        let light = light.now_or_never().unwrap().unwrap();
        drop((second, third, light));
        // What is larger than the gate passes alone.
        pass(&gate, Weight::of_marks(5000)).now_or_never().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_given_up_keeps_no_room() {
        let gate = Arc::<Gate>::default();
        let all = pass(&gate, Weight::of_marks(1000)).await.unwrap();
        drop(pass(&gate, Weight::ONE));
        let mut next = Box::pin(pass(&gate, Weight::of_marks(1000)));
        assert!(next.as_mut().now_or_never().is_none());
        drop(all);
        drop(next.now_or_never().unwrap().unwrap());
        assert_eq!(gate.state().under_way, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_stays_long_is_refused() {
        let gate = Arc::<Gate>::default();
        let mut refused = 0;
        let mut waiting = Vec::new();
        let mut under_way = Some(pass(&gate, Weight::of_marks(1000)).await.unwrap());
        for _ in 0..40 {
            waiting.extend((0..3).map(|_| Box::pin(pass(&gate, Weight::of_marks(1000)))));
            advance(Duration::from_millis(10)).await;
            drop(under_way.take());
            waiting.retain_mut(|call| match call.as_mut().now_or_never() {
                None => true,
                Some(Ok(passed)) => {
                    under_way = Some(passed);
                    false
                }
                Some(Err(error)) => {
                    assert_eq!(error.kind, StoreErrorKind::Overloaded);
                    refused += 1;
                    false
                }
            });
            assert!(under_way.is_some(), "one is under way all the time");
        }
        assert!(refused > 40, "{refused}");
        assert!(waiting.len() < 20, "{}", waiting.len());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_line_was_refused_whole_a_burst_is_served_in_order() {
        let gate = Arc::<Gate>::default();
        let call = || Box::pin(pass(&gate, Weight::of_marks(1000)));
        let mut under_way = call().await.unwrap();
        let mut waiting: Vec<_> = (0..20).map(|_| call()).collect();
        for _ in 0..12 {
            advance(Duration::from_millis(40)).await;
            drop(under_way);
            let (nth, passed) = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(nth, call)| Some((nth, call.as_mut().now_or_never()?.ok()?)))
                .unwrap();
            drop(waiting.remove(nth));
            under_way = passed;
            if gate.state().line.len() == 0 {
                break;
            }
        }
        assert_eq!(gate.state().line.len(), 0, "the others were refused");
        drop(under_way);
        advance(Duration::from_secs(3600)).await;

        let under_way = call().await.unwrap();
        let (mut first, second) = (call(), call());
        advance(Duration::from_millis(40)).await;
        drop(under_way);
        assert!(first.as_mut().now_or_never().unwrap().is_ok());
        assert!(second.now_or_never().unwrap().is_ok());
    }
}
