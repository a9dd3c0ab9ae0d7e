//! When a connection is pinged, told to go away, and closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::listener::{Limits, Notice};
use crate::telemetry::metrics::Bound;

/// How long a connection without a stream stays open after GOAWAY: the client's calls that have crossed
/// it arrive within a round trip.
const LINGER: Duration = Duration::from_secs(5);

/// How long the last frames may take.
const FLUSH: Duration = Duration::from_secs(1);

/// How often a connection is looked at while memory is short.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);

/// How often a connection is looked at while answers have ended that have not left.
const UNSENT_INTERVAL: Duration = Duration::from_secs(1);

/// The life of a connection.
#[derive(Debug)]
pub(super) struct Lifetime {
    limits: Arc<Limits>,
    stage: Stage,
    /// When it gets GOAWAY for its age.
    expires: Option<Instant>,
    /// When a ping was sent that is not answered.
    pinged: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The client's SETTINGS are not complete.
    Starting {
        until: Instant,
    },
    Open,
    /// GOAWAY was sent. Streams go on, until `end` if there is one.
    Leaving {
        since: Instant,
        end: Option<Instant>,
    },
    /// Streams were told to end.
    Ending {
        until: Instant,
    },
    /// The last GOAWAY was sent.
    Closing {
        until: Instant,
    },
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) now: Instant,
    /// Whether the client's SETTINGS are complete.
    pub(super) begun: bool,
    pub(super) last_read: Instant,
    /// Since when it has no stream; `None` while it has one.
    pub(super) idle_since: Option<Instant>,
    /// Whether answers have ended that have not left.
    pub(super) has_unsent: bool,
    /// What the listener says.
    pub(super) notice: Notice,
}

/// What is due on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ping,
    /// GOAWAY, for a bound or for none.
    GoAway(Option<Bound>),
    /// The streams that are open end.
    EndStreams,
    /// The last GOAWAY, for a bound or for none; the connection is closed once it is sent.
    Shutdown(Option<Bound>),
    /// The connection is closed without another frame.
    Close,
}

impl Lifetime {
    /// Begins at `now`. The client's first frame is due at `begun_by`.
    pub(super) fn new(
        limits: Arc<Limits>,
        now: Instant,
        begun_by: Instant,
        age: Option<Duration>,
    ) -> Self {
        let stage = Stage::Starting { until: begun_by };
        Self { limits, stage, expires: age.map(|age| now + age), pinged: None }
    }

    /// Begins the end: the last GOAWAY was sent for another reason.
    pub(super) fn shut_down(&mut self, now: Instant) {
        self.stage = Stage::Closing { until: now + FLUSH };
    }

    /// Returns whether GOAWAY was sent.
    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self.stage, Stage::Starting { .. } | Stage::Open)
    }

    /// Returns what is due, one at a time.
    pub(super) fn due(&mut self, facts: &Facts) -> Option<Due> {
        let now = facts.now;
        match self.stage {
            Stage::Starting { until } if !facts.begun => {
                return (now >= until || facts.notice.draining).then_some(Due::Close);
            }
            Stage::Starting { .. } => self.stage = Stage::Open,
            Stage::Closing { until } => return (now >= until).then_some(Due::Close),
            _ => {}
        }
        if let Some(due) = self.keep_alive(facts) {
            return Some(due);
        }
        match self.stage {
            Stage::Open => self.leave(facts),
            Stage::Leaving { end: Some(end), .. } if now >= end => {
                if facts.idle_since.is_some() {
                    self.shut_down(now);
                    return Some(Due::Shutdown(None));
                }
                self.stage = Stage::Ending { until: now + FLUSH };
                Some(Due::EndStreams)
            }
            Stage::Leaving { since, .. }
                if facts.idle_since.is_some_and(|idle| now >= idle.max(since) + LINGER) =>
            {
                self.shut_down(now);
                Some(Due::Shutdown(None))
            }
            Stage::Ending { until } if now >= until || facts.idle_since.is_some() => {
                self.shut_down(now);
                Some(Due::Shutdown(None))
            }
            _ => None,
        }
    }

    fn keep_alive(&mut self, facts: &Facts) -> Option<Due> {
        let now = facts.now;
        self.pinged = self.pinged.filter(|pinged| facts.last_read < *pinged);
        match self.pinged {
            Some(pinged) if now >= pinged + self.limits.keepalive_timeout => {
                self.shut_down(now);
                Some(Due::Shutdown(None))
            }
            None if now >= facts.last_read + self.limits.keepalive_interval => {
                self.pinged = Some(now);
                Some(Due::Ping)
            }
            _ => None,
        }
    }

    fn leave(&mut self, facts: &Facts) -> Option<Due> {
        let now = facts.now;
        let is_idle_too_long = || {
            let (idle_since, limit) = facts.idle_since.zip(self.limits.idle)?;
            (now >= idle_since + limit).then_some(())
        };
        let (bound, hard) = if facts.notice.draining {
            // The caller bounds the drain.
            (None, false)
        } else if self.expires.is_some_and(|expires| now >= expires) {
            (None, true)
        } else if is_idle_too_long().is_some() {
            (Some(Bound::IdleTimeout), true)
        } else if facts.notice.memory_critical && facts.idle_since.is_some() {
            (Some(Bound::Memory), true)
        } else {
            return None;
        };
        let end = hard.then(|| now + self.limits.connection_age_grace);
        self.stage = Stage::Leaving { since: now, end };
        Some(Due::GoAway(bound))
    }

    /// Returns when to look again, if nothing is heard before.
    pub(super) fn next(&self, facts: &Facts) -> Instant {
        let idle_since = facts.idle_since;
        let alive = match self.pinged {
            Some(pinged) => pinged + self.limits.keepalive_timeout,
            None => facts.last_read + self.limits.keepalive_interval,
        };
        let alive = if facts.has_unsent { alive.min(facts.now + UNSENT_INTERVAL) } else { alive };
        match self.stage {
            // The caller looks when it has begun.
            Stage::Starting { until } | Stage::Closing { until } => until,
            Stage::Open => {
                // Where it has a stream now, it is not idle too long before then.
                let idle = self.limits.idle.map(|limit| idle_since.unwrap_or(facts.now) + limit);
                let pressure =
                    facts.notice.memory_critical.then_some(facts.now + PRESSURE_INTERVAL);
                [self.expires, idle, pressure].into_iter().flatten().fold(alive, Instant::min)
            }
            Stage::Leaving { since, end } => {
                let lingered = idle_since.map(|idle| idle.max(since) + LINGER);
                [lingered, end].into_iter().flatten().fold(alive, Instant::min)
            }
            Stage::Ending { until } => until.min(alive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const LIMITS: Limits = Limits {
        connections: 1,
        connections_per_peer: None,
        streams: 1,
        handshake: seconds(10),
        keepalive_interval: seconds(60),
        keepalive_timeout: seconds(20),
        connection_age: Some(seconds(1800)),
        connection_age_grace: seconds(30),
        idle: Some(seconds(300)),
        http1_idle: None,
        send: None,
    };

    /// A connection whose clock is `facts.now`.
    struct Connection {
        lifetime: Lifetime,
        facts: Facts,
        start: Instant,
        /// Whether the client answers pings.
        answers: bool,
    }

    impl Connection {
        fn new(limits: Limits) -> Self {
            let start = Instant::now();
            let age = limits.connection_age;
            let lifetime = Lifetime::new(Arc::new(limits), start, start + limits.handshake, age);
            let facts = Facts {
                now: start,
                begun: true,
                last_read: start,
                idle_since: Some(start),
                has_unsent: false,
                notice: Notice::default(),
            };
            Self { lifetime, facts, start, answers: true }
        }

        fn with_a_stream(limits: Limits) -> Self {
            let mut connection = Self::new(limits);
            connection.facts.idle_since = None;
            connection
        }

        /// Lives until a second after the start; returns what was due, with the second. Pings are
        /// left out if they are answered.
        fn until(&mut self, second: u64) -> Vec<(u64, Due)> {
            let mut all = Vec::new();
            let end = self.start + seconds(second);
            loop {
                while let Some(due) = self.lifetime.due(&self.facts) {
                    if due == Due::Ping && self.answers {
                        self.facts.now += Duration::from_millis(1);
                        self.facts.last_read = self.facts.now;
                        continue;
                    }
                    all.push(((self.facts.now - self.start).as_secs(), due));
                    if due == Due::Close {
                        return all;
                    }
                }
                let next = self.lifetime.next(&self.facts);
                assert!(next > self.facts.now, "it looks again without an end");
                if next > end {
                    self.facts.now = end;
                    return all;
                }
                self.facts.now = next;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sent_no_settings_is_closed_after_the_handshake_timeout() {
        let mut connection = Connection::new(LIMITS);
        connection.facts.begun = false;
        assert_eq!(connection.until(9), []);
        assert_eq!(connection.until(60), [(10, Due::Close)]);
        let mut begun = Connection::new(LIMITS);
        assert_eq!(begun.until(60), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_though_it_answers_pings() {
        let expected = [(300, Due::GoAway(Some(Bound::IdleTimeout))), (305, Due::Shutdown(None))];
        let mut idle = Connection::new(LIMITS);
        assert_eq!(idle.until(305)[..], expected);
        // One with a stream is not idle, nor is one where it is off.
        assert_eq!(Connection::with_a_stream(LIMITS).until(1700), []);
        assert_eq!(Connection::new(Limits { idle: None, ..LIMITS }).until(1700), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_stream_on() {
        let mut connection = Connection::with_a_stream(LIMITS);
        assert_eq!(connection.until(1000), []);
        connection.facts.idle_since = Some(connection.facts.now);
        assert_eq!(connection.until(1299), []);
        assert_eq!(connection.until(1301), [(1300, Due::GoAway(Some(Bound::IdleTimeout)))]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_is_a_hard_end_for_streams() {
        let mut old = Connection::with_a_stream(LIMITS);
        let expected = [
            (1800, Due::GoAway(None)),
            (1830, Due::EndStreams),
            (1831, Due::Shutdown(None)),
            (1832, Due::Close),
        ];
        assert_eq!(old.until(4000), expected);
        // Without an age it lives on.
        let ageless = Limits { connection_age: None, ..LIMITS };
        assert_eq!(Connection::with_a_stream(ageless).until(100_000), []);
        // Once its streams have ended, it does not wait.
        let mut ended = Connection::with_a_stream(LIMITS);
        assert_eq!(ended.until(1810), [(1800, Due::GoAway(None))]);
        ended.facts.idle_since = Some(ended.facts.now);
        assert_eq!(ended.until(1816), [(1815, Due::Shutdown(None)), (1816, Due::Close)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_no_ping_is_closed() {
        let mut dead = Connection::with_a_stream(LIMITS);
        dead.answers = false;
        assert_eq!(dead.until(100), [(60, Due::Ping), (80, Due::Shutdown(None)), (81, Due::Close)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_answers_that_do_not_leave_is_looked_at_each_second() {
        let mut stuck = Connection::with_a_stream(LIMITS);
        assert_eq!(stuck.until(1), []);
        assert_eq!(stuck.lifetime.next(&stuck.facts), stuck.start + seconds(60));
        stuck.facts.has_unsent = true;
        assert_eq!(stuck.lifetime.next(&stuck.facts), stuck.facts.now + UNSENT_INTERVAL);
        assert_eq!(stuck.until(30), []);
    }

    #[tokio::test(start_paused = true)]
    async fn short_calls_do_not_put_off_the_end_of_an_old_connection() {
        let mut busy = Connection::with_a_stream(LIMITS);
        assert_eq!(busy.until(1829), [(1800, Due::GoAway(None))]);
        // A call has just ended, and the connection would linger for another.
        busy.facts.idle_since = Some(busy.facts.now);
        assert_eq!(busy.until(1831), [(1830, Due::Shutdown(None)), (1831, Due::Close)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_for_streams_and_not_for_idle_connections() {
        for (idle, expected) in [
            (false, &[(0, Due::GoAway(None))][..]),
            (true, &[(0, Due::GoAway(None)), (5, Due::Shutdown(None))]),
        ] {
            let mut connection = Connection::with_a_stream(LIMITS);
            connection.facts.notice.draining = true;
            connection.facts.idle_since = idle.then_some(connection.start);
            assert_eq!(connection.until(5), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_ended_while_memory_is_short() {
        let mut idle = Connection::new(LIMITS);
        assert_eq!(idle.until(9), []);
        idle.facts.notice.memory_critical = true;
        assert_eq!(idle.until(10), [(9, Due::GoAway(Some(Bound::Memory)))]);
        let mut busy = Connection::with_a_stream(LIMITS);
        busy.facts.notice.memory_critical = true;
        assert_eq!(busy.until(10), []);
        // It is looked at again.
        busy.facts.idle_since = Some(busy.facts.now);
        assert_eq!(busy.until(11), [(10, Due::GoAway(Some(Bound::Memory)))]);
    }
}
