//! Slows down for a receiver that fails or asks for it: a circuit breaker and a throttle, for all feeds of a
//! webhook in this process.

use std::time::Duration;

use tokio::time::Instant;

use super::receiver::{Failure, FailureKind};

/// Consecutive failures that open the circuit, if nothing arrived for so long: a few conversations that always
/// fail do not open it while others arrive.
const OPENING_FAILURES: u32 = 20;
const OPENING_SILENCE: Duration = Duration::from_secs(5);

/// Attempts of one probe of an open circuit, all of different lanes. Only some of them may be repeated ones:
/// those that failed before may be the ones that always fail.
const PROBE_ATTEMPTS: u32 = 8;
const PROBE_RETRIES: u32 = 4;

/// Pauses before the probes of an open circuit, and of a throttled webhook without `retry-after`.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);
const THROTTLE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Longest pause of a whole webhook because of one answer.
const THROTTLE_MAX: Duration = Duration::from_secs(300);

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
    last_success: Option<Instant>,
    opening: Option<Opening>,
    /// Increased by each opening, so that attempts that began before one do not count as its probes.
    epoch: u64,
    throttle: Option<Throttle>,
    throttle_pause: Duration,
}

/// A pause that the receiver asked for.
#[derive(Debug)]
struct Throttle {
    until: Instant,
    /// When the attempt began that was answered so, the last one of several.
    began: Instant,
}

/// An open circuit.
#[derive(Debug)]
struct Opening {
    probe_at: Instant,
    pause: Duration,
    /// Attempts of the probe that began, and those that have no outcome yet.
    begun: u32,
    in_flight: u32,
}

impl Opening {
    fn new(now: Instant) -> Self {
        Self { probe_at: now + PAUSE_MIN, pause: PAUSE_MIN, begun: 0, in_flight: 0 }
    }

    /// Ends one attempt of the probe. After the last one that failed the next probe comes later. Returns
    /// whether that was it.
    fn end_attempt(&mut self, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let has_failed = self.in_flight == 0 && self.begun > 0;
        if has_failed {
            self.pause = (self.pause * 2).min(PROBE_PAUSE_MAX);
            (self.probe_at, self.begun) = (now + self.pause, 0);
        }
        has_failed
    }
}

/// Whether an attempt may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// It may, now.
    Go(Ticket),
    /// Not before this time.
    Wait(Instant),
    /// Not before the probe that is under way has ended, as far as it is of this kind.
    WaitForProbe,
}

/// An attempt that the circuit knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    epoch: u64,
    is_probe: bool,
    began: Instant,
}

/// Change by an outcome.
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
            last_success: None,
            opening: None,
            epoch: 0,
            throttle: None,
            throttle_pause: Duration::ZERO,
        }
    }
}

impl Circuit {
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_some()
    }

    /// Forgets everything about a receiver, and all attempts that are under way.
    pub(super) fn reset(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::default() };
    }

    /// Returns whether an attempt may begin now: of a delivery that was never attempted, or of another. If it
    /// may, its outcome has to be told.
    pub(super) fn permit(&mut self, now: Instant, is_first: bool) -> Permission {
        if let Some(throttle) = &self.throttle {
            if now < throttle.until {
                return Permission::Wait(throttle.until);
            }
            self.throttle = None;
        }
        let ticket = Ticket { epoch: self.epoch, is_probe: self.is_open(), began: now };
        let Some(opening) = &mut self.opening else { return Permission::Go(ticket) };
        if opening.begun == 0 && now < opening.probe_at {
            return Permission::Wait(opening.probe_at);
        }
        if opening.begun >= if is_first { PROBE_ATTEMPTS } else { PROBE_RETRIES } {
            return Permission::WaitForProbe;
        }
        opening.begun += 1;
        opening.in_flight += 1;
        Permission::Go(ticket)
    }

    /// Notes that a delivery arrived. It ends a pause that an earlier attempt was answered with.
    pub(super) fn succeed(&mut self, ticket: Ticket, now: Instant) -> Change {
        self.history = self.history << 1 | 1;
        self.streak = 0;
        self.last_success = Some(now);
        let ended = self.throttle.take_if(|throttle| throttle.began < ticket.began).is_some();
        if self.throttle.is_none() {
            self.throttle_pause = Duration::ZERO;
        }
        match self.opening.take() {
            Some(_) => Change::Closed,
            None if ended => Change::Delayed,
            None => Change::Nothing,
        }
    }

    /// Ends a pause that the receiver asked for. Returns whether there was one.
    pub(super) fn end_throttle(&mut self) -> bool {
        self.throttle_pause = Duration::ZERO;
        self.throttle.take().is_some()
    }

    /// Notes that an attempt failed.
    pub(super) fn fail(&mut self, ticket: Ticket, now: Instant, failure: &Failure) -> Change {
        self.history <<= 1;
        self.streak = self.streak.saturating_add(1);
        let is_throttled = self.note_throttle(ticket, now, failure);
        let is_silent = self.last_success.is_none_or(|at| now - at >= OPENING_SILENCE);
        let mut is_delayed = is_throttled;
        if let Some(opening) = &mut self.opening {
            if ticket.is_probe && ticket.epoch == self.epoch {
                is_delayed |= opening.end_attempt(now);
            }
        } else if self.streak >= OPENING_FAILURES && is_silent {
            self.epoch += 1;
            self.opening = Some(Opening::new(now));
            return Change::Opened;
        }
        if is_delayed { Change::Delayed } else { Change::Nothing }
    }

    /// Forgets an attempt that has no outcome. Returns whether another attempt of a probe may begin.
    pub(super) fn abandon(&mut self, ticket: Ticket, now: Instant) -> bool {
        let probed =
            self.opening.as_mut().filter(|_| ticket.is_probe && ticket.epoch == self.epoch);
        let Some(opening) = probed else { return false };
        opening.begun = opening.begun.saturating_sub(1);
        opening.end_attempt(now);
        true
    }

    /// Returns whether the receiver fails now and then, by the attempts of other entries than one that has
    /// failed so often: between a sixteenth and two thirds of them failed, and it is not away.
    pub(super) fn is_flaky(&self, own_failures: u32) -> bool {
        let failures = self.history.count_zeros().saturating_sub(own_failures);
        let attempts = HISTORY.saturating_sub(own_failures);
        self.streak < AWAY_FAILURES && failures * 16 >= attempts && failures * 3 <= attempts * 2
    }

    /// Delays all attempts if the receiver is overloaded. Failures of one pause lengthen it once. Another
    /// failure with `retry-after` says nothing about other deliveries.
    fn note_throttle(&mut self, ticket: Ticket, now: Instant, failure: &Failure) -> bool {
        let is_unavailable = failure.status == Some(503) && failure.retry_after.is_some();
        if failure.kind != FailureKind::Throttled && !is_unavailable {
            return false;
        }
        let earlier = self.throttle.take().filter(|throttle| throttle.until > now);
        if earlier.is_none() {
            self.throttle_pause = (self.throttle_pause * 2).clamp(PAUSE_MIN, THROTTLE_PAUSE_MAX);
        }
        let until = now + failure.retry_after.unwrap_or(self.throttle_pause).min(THROTTLE_MAX);
        let throttle = Throttle { until, began: ticket.began };
        self.throttle = Some(match earlier {
            Some(earlier) => {
                Throttle { until: until.max(earlier.until), began: ticket.began.max(earlier.began) }
            }
            None => throttle,
        });
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
        match circuit.permit(now, true) {
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
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let probe_at = now + Duration::from_secs(pause);
            assert_eq!(circuit.permit(now, true), Permission::Wait(probe_at));
            now = probe_at;
            let probe = go(&mut circuit, now);
            let change = circuit.fail(probe, now, &failure(FailureKind::Timeout, None));
            assert_eq!(change, Change::Delayed);
        }
        assert!(circuit.is_open());
        now += PROBE_PAUSE_MAX;
        let probe = go(&mut circuit, now);
        assert_eq!(circuit.succeed(probe, now), Change::Closed);
        assert!(!circuit.is_open());
        go(&mut circuit, now);
    }

    #[test]
    fn a_probe_is_some_attempts_of_which_half_may_be_repeated_ones() {
        let (mut circuit, start) = (Circuit::default(), Instant::now());
        open(&mut circuit, start);
        let now = start + PAUSE_MIN;
        let begin = |circuit: &mut Circuit, is_first| match circuit.permit(now, is_first) {
            Permission::Go(ticket) => Some(ticket),
            Permission::WaitForProbe => None,
            other @ Permission::Wait(_) => panic!("{other:?}"),
        };
        let mut probes: Vec<_> = std::iter::from_fn(|| begin(&mut circuit, false)).collect();
        assert_eq!(probes.len(), 4);
        probes.extend(std::iter::from_fn(|| begin(&mut circuit, true)));
        assert_eq!(probes.len(), 8);
        // The pause grows once, when the last one has failed.
        let last = probes.pop().unwrap();
        for probe in probes {
            let change = circuit.fail(probe, now, &failure(FailureKind::Status, None));
            assert_eq!(change, Change::Nothing);
        }
        let late = now + Duration::from_secs(9);
        let change = circuit.fail(last, late, &failure(FailureKind::Timeout, None));
        assert_eq!(change, Change::Delayed);
        let until = late + Duration::from_secs(2);
        assert_eq!(circuit.permit(late, true), Permission::Wait(until));
        // One success of a probe is enough.
        let probes = [go(&mut circuit, until), go(&mut circuit, until)];
        let change = circuit.fail(probes[0], until, &failure(FailureKind::Status, None));
        assert_eq!(change, Change::Nothing);
        assert_eq!(circuit.succeed(probes[1], until), Change::Closed);
    }

    #[test]
    fn it_stays_closed_while_something_arrives() {
        let (mut circuit, mut now) = (Circuit::default(), Instant::now());
        for _ in 0..10 {
            let ticket = go(&mut circuit, now);
            assert_eq!(circuit.succeed(ticket, now), Change::Nothing);
            now += Duration::from_millis(4999);
            for _ in 0..100 {
                assert_eq!(fail(&mut circuit, now), Change::Nothing);
            }
        }
        now += Duration::from_millis(1);
        assert_eq!(fail(&mut circuit, now), Change::Opened);
    }

    #[test]
    fn attempts_from_before_it_opened_are_no_probes() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let old = go(&mut circuit, now);
        open(&mut circuit, now);
        let probe_at = now + PAUSE_MIN;
        let probe = go(&mut circuit, probe_at);
        let late = circuit.fail(old, probe_at, &failure(FailureKind::Timeout, None));
        assert_eq!(late, Change::Nothing);
        assert!(!circuit.abandon(old, probe_at));
        // One that was abandoned was none.
        assert!(circuit.abandon(probe, probe_at));
        let probes: Vec<_> = (0..PROBE_ATTEMPTS).map(|_| go(&mut circuit, probe_at)).collect();
        assert_eq!(circuit.permit(probe_at, true), Permission::WaitForProbe);
        circuit.reset();
        assert!(!circuit.is_open() && !circuit.abandon(probes[0], probe_at));
    }

    #[test]
    fn a_throttled_webhook_waits_as_long_as_it_is_told_or_doubles() {
        let (mut circuit, start) = (Circuit::default(), Instant::now());
        let ticket = go(&mut circuit, start);
        circuit.fail(ticket, start, &failure(FailureKind::Throttled, Some(30)));
        let until = start + Duration::from_secs(30);
        assert_eq!(circuit.permit(start, true), Permission::Wait(until));
        // A shorter time does not shorten the pause. Another failure delays its own delivery alone.
        circuit.fail(ticket, start, &failure(FailureKind::Throttled, Some(5)));
        let change = circuit.fail(ticket, start, &failure(FailureKind::Status, Some(3600)));
        assert_eq!(change, Change::Nothing);
        assert_eq!(circuit.permit(start, true), Permission::Wait(until));
        let mut now = until;
        let ticket = go(&mut circuit, now);
        circuit.succeed(ticket, now);
        for pause in [1, 2, 4] {
            let _ = circuit.permit(now, true);
            for _ in 0..3 {
                let change = circuit.fail(ticket, now, &failure(FailureKind::Throttled, None));
                assert_eq!(change, Change::Delayed);
            }
            let until = now + Duration::from_secs(pause);
            assert_eq!(circuit.permit(now, true), Permission::Wait(until), "{pause}");
            now = until;
        }
    }

    #[test]
    fn a_pause_of_a_webhook_is_bounded_and_ends_with_a_later_success() {
        let (mut circuit, start) = (Circuit::default(), Instant::now());
        let (earlier, second) = (go(&mut circuit, start), Duration::from_secs(1));
        let throttled = go(&mut circuit, start + second);
        let later = go(&mut circuit, start + 2 * second);
        let now = start + 3 * second;
        circuit.fail(throttled, now, &failure(FailureKind::Throttled, Some(3600)));
        let until = now + Duration::from_secs(300);
        assert_eq!(circuit.succeed(earlier, now), Change::Nothing);
        assert_eq!(circuit.permit(now, true), Permission::Wait(until));
        assert_eq!(circuit.succeed(later, now), Change::Delayed);
        go(&mut circuit, now);
        circuit.fail(throttled, now, &failure(FailureKind::Throttled, None));
        assert!(circuit.end_throttle());
        assert!(!circuit.end_throttle());
        go(&mut circuit, now);
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
                let ticket = Ticket { epoch: 0, is_probe: false, began: now };
                if outcome {
                    circuit.succeed(ticket, now);
                } else {
                    circuit.fail(ticket, now, &failure(FailureKind::Status, None));
                }
            }
            assert_eq!(circuit.is_flaky(own), expected, "{name}");
        }
    }
}
