//! Slows down for a receiver that fails or asks for it: a circuit breaker and a throttle, for all feeds of a
//! webhook in this process.

use std::time::Duration;

use tokio::time::Instant;

use super::receiver::{Failure, FailureKind};

/// Consecutive failures that open the circuit.
const OPENING_FAILURES: u32 = 20;

/// Pauses between two probes of an open circuit, and of a throttled webhook without `retry-after`.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Consecutive failures after which a receiver counts as away, and not as flaky.
const AWAY_FAILURES: u32 = 12;

/// Attempts whose outcomes are remembered.
const HISTORY: u32 = u64::BITS;

/// Breaker and throttle of a webhook.
#[derive(Debug)]
pub(super) struct Circuit {
    /// The last outcomes, the latest in the lowest bit: 1 is a success.
    history: u64,
    /// Consecutive failures up to now.
    streak: u32,
    opening: Option<Opening>,
    /// Increased by each opening, so that attempts that began before one do not count as its probes.
    epoch: u64,
    throttled_until: Option<Instant>,
    throttle_pause: Duration,
}

/// An open circuit.
#[derive(Debug)]
struct Opening {
    probe_at: Instant,
    pause: Duration,
    is_probing: bool,
}

/// Whether an attempt may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// It may, now.
    Go(Ticket),
    /// Not before this time.
    Wait(Instant),
    /// Not before the probe that is under way has ended.
    WaitForProbe,
}

/// An attempt that the circuit knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    epoch: u64,
    is_probe: bool,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Opened,
    /// It stays open, or the webhook is throttled: those who wait look at the time again.
    Delayed,
    Closed,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            history: u64::MAX,
            streak: 0,
            opening: None,
            epoch: 0,
            throttled_until: None,
            throttle_pause: Duration::ZERO,
        }
    }
}

impl Circuit {
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_some()
    }

    /// Returns whether an attempt may begin now. If it may, its outcome has to be told.
    pub(super) fn permit(&mut self, now: Instant) -> Permission {
        if let Some(until) = self.throttled_until {
            if now < until {
                return Permission::Wait(until);
            }
            self.throttled_until = None;
        }
        match &mut self.opening {
            None => Permission::Go(Ticket { epoch: self.epoch, is_probe: false }),
            Some(opening) if opening.is_probing => Permission::WaitForProbe,
            Some(opening) if now < opening.probe_at => Permission::Wait(opening.probe_at),
            Some(opening) => {
                opening.is_probing = true;
                Permission::Go(Ticket { epoch: self.epoch, is_probe: true })
            }
        }
    }

    /// Notes that a delivery arrived.
    pub(super) fn succeed(&mut self) -> Change {
        self.history = self.history << 1 | 1;
        self.streak = 0;
        if self.throttled_until.is_none() {
            self.throttle_pause = Duration::ZERO;
        }
        match self.opening.take() {
            Some(_) => Change::Closed,
            None => Change::Nothing,
        }
    }

    /// Notes that an attempt failed.
    pub(super) fn fail(&mut self, ticket: Ticket, now: Instant, failure: &Failure) -> Change {
        self.history <<= 1;
        self.streak = self.streak.saturating_add(1);
        let is_throttled = self.throttle(now, failure);
        if let Some(opening) = &mut self.opening {
            if ticket.is_probe && ticket.epoch == self.epoch {
                opening.pause = (opening.pause * 2).min(PAUSE_MAX);
                opening.probe_at = now + opening.pause;
                opening.is_probing = false;
                return Change::Delayed;
            }
        } else if self.streak >= OPENING_FAILURES {
            self.epoch += 1;
            let pause = PAUSE_MIN;
            self.opening = Some(Opening { probe_at: now + pause, pause, is_probing: false });
            return Change::Opened;
        }
        if is_throttled { Change::Delayed } else { Change::Nothing }
    }

    /// Forgets an attempt that has no outcome. Returns whether another probe may begin.
    pub(super) fn abandon(&mut self, ticket: Ticket) -> bool {
        let probed =
            self.opening.as_mut().filter(|_| ticket.is_probe && ticket.epoch == self.epoch);
        probed.map(|opening| opening.is_probing = false).is_some()
    }

    /// Returns whether the receiver fails now and then, by the attempts of other entries than one that has
    /// failed so often: between a sixteenth and two thirds of them failed, and it is not away.
    pub(super) fn is_flaky(&self, own_failures: u32) -> bool {
        let failures = self.history.count_zeros().saturating_sub(own_failures);
        let attempts = HISTORY.saturating_sub(own_failures);
        self.streak < AWAY_FAILURES && failures * 16 >= attempts && failures * 3 <= attempts * 2
    }

    /// Delays all attempts if the receiver asks for it. Failures of one pause lengthen it once.
    fn throttle(&mut self, now: Instant, failure: &Failure) -> bool {
        if failure.kind != FailureKind::Throttled && failure.retry_after.is_none() {
            return false;
        }
        if self.throttled_until.is_none_or(|until| until <= now) {
            self.throttle_pause = (self.throttle_pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        }
        let until = now + failure.retry_after.unwrap_or(self.throttle_pause);
        self.throttled_until = self.throttled_until.max(Some(until));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: FailureKind, retry_after: Option<u64>) -> Failure {
        let retry_after = retry_after.map(Duration::from_secs);
        Failure { kind, status: Some(500), detail: String::new(), retry_after }
    }

    fn go(circuit: &mut Circuit, now: Instant) -> Ticket {
        match circuit.permit(now) {
            Permission::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn fail(circuit: &mut Circuit, now: Instant) -> Change {
        let ticket = go(circuit, now);
        circuit.fail(ticket, now, &failure(FailureKind::Status, None))
    }

    fn open(circuit: &mut Circuit, now: Instant) {
        let changes: Vec<_> = (0..OPENING_FAILURES).map(|_| fail(circuit, now)).collect();
        assert_eq!(changes.last(), Some(&Change::Opened));
        assert_eq!(changes.iter().filter(|change| **change == Change::Opened).count(), 1);
    }

    #[test]
    fn it_opens_probes_at_growing_pauses_and_closes() {
        let (mut circuit, start) = (Circuit::default(), Instant::now());
        open(&mut circuit, start);
        let mut now = start;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            let probe_at = now + Duration::from_secs(pause);
            assert_eq!(circuit.permit(now), Permission::Wait(probe_at));
            now = probe_at;
            let probe = go(&mut circuit, now);
            assert_eq!(circuit.permit(now), Permission::WaitForProbe);
            let change = circuit.fail(probe, now, &failure(FailureKind::Timeout, None));
            assert_eq!(change, Change::Delayed);
        }
        assert!(circuit.is_open());
        now += PAUSE_MAX;
        let _probe = go(&mut circuit, now);
        assert_eq!(circuit.succeed(), Change::Closed);
        assert!(!circuit.is_open());
        go(&mut circuit, now);
    }

    #[test]
    fn a_success_in_between_keeps_it_closed() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..100 {
            for _ in 1..OPENING_FAILURES {
                assert_eq!(fail(&mut circuit, now), Change::Nothing);
            }
            assert_eq!(circuit.succeed(), Change::Nothing);
        }
    }

    #[test]
    fn attempts_from_before_it_opened_are_no_probes() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let old = go(&mut circuit, now);
        open(&mut circuit, now);
        let probe_at = now + PAUSE_MIN;
        let late = circuit.fail(old, probe_at, &failure(FailureKind::Timeout, None));
        assert_eq!(late, Change::Nothing);
        let probe = go(&mut circuit, probe_at);
        assert!(!circuit.abandon(old));
        assert_eq!(circuit.permit(probe_at), Permission::WaitForProbe);
        assert!(circuit.abandon(probe));
        go(&mut circuit, probe_at);
    }

    #[test]
    fn a_throttled_webhook_waits_as_long_as_it_is_told_or_doubles() {
        let (mut circuit, start) = (Circuit::default(), Instant::now());
        let ticket = go(&mut circuit, start);
        circuit.fail(ticket, start, &failure(FailureKind::Throttled, Some(30)));
        let until = start + Duration::from_secs(30);
        assert_eq!(circuit.permit(start), Permission::Wait(until));
        // A status with retry-after counts too; a shorter time does not shorten the pause.
        circuit.fail(ticket, start, &failure(FailureKind::Status, Some(5)));
        assert_eq!(circuit.permit(start), Permission::Wait(until));
        let mut now = until;
        go(&mut circuit, now);
        circuit.succeed();
        for pause in [1, 2, 4] {
            let _ = circuit.permit(now);
            for _ in 0..3 {
                let change = circuit.fail(ticket, now, &failure(FailureKind::Throttled, None));
                assert_eq!(change, Change::Delayed);
            }
            let until = now + Duration::from_secs(pause);
            assert_eq!(circuit.permit(now), Permission::Wait(until), "{pause}");
            now = until;
        }
    }

    #[test]
    fn a_receiver_is_flaky_if_others_fail_now_and_then() {
        let now = Instant::now();
        // Each table line: outcomes (true is a success), own failures, expected.
        let half = |n: usize| (0..n).map(|i| i % 2 == 0).collect::<Vec<_>>();
        let table = [
            ("new", vec![], 0, false),
            ("one entry fails alone", vec![false; 8], 8, false),
            ("half", half(64), 10, true),
            ("one in 64", [vec![false], vec![true; 63]].concat(), 0, false),
            ("away", vec![false; 15], 5, false),
            (
                "nearly all",
                [vec![true; 8], half(4), vec![false; 60], vec![true]].concat(),
                1,
                false,
            ),
        ];
        for (name, outcomes, own, expected) in table {
            let mut circuit = Circuit::default();
            for outcome in outcomes {
                if outcome {
                    circuit.succeed();
                } else {
                    let ticket = Ticket { epoch: 0, is_probe: false };
                    circuit.fail(ticket, now, &failure(FailureKind::Status, None));
                }
            }
            assert_eq!(circuit.is_flaky(own), expected, "{name}");
        }
    }
}
