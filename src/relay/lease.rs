//! How long this process may deliver a feed.

use std::time::Duration;

use tokio::time::Instant;

/// How long Redis keeps a lease that is not renewed.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(6);

/// How much earlier than Redis this process takes a lease to be over: clocks run at different speeds, and an
/// attempt takes a while to reach its receiver.
const MARGIN: Duration = Duration::from_secs(1);

/// Time between two renewals, and after one that failed.
const RENEW_INTERVAL: Duration = Duration::from_millis(1500);
const RENEW_RETRY: Duration = Duration::from_millis(500);

/// The local validity of a lease. It is counted from when a renewal was sent: whatever happens to the process
/// afterwards, it ends before Redis gives the lease to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    until: Instant,
    renew_at: Instant,
}

impl Validity {
    /// Begins with an acquisition that was sent at this time.
    pub(super) fn new(sent: Instant) -> Self {
        Self { until: sent + LEASE_TTL - MARGIN, renew_at: sent + RENEW_INTERVAL }
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        now < self.until
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn renew_at(&self) -> Instant {
        self.renew_at
    }

    /// Notes a renewal that was sent at this time.
    pub(super) fn renewed(&mut self, sent: Instant) {
        *self = Self { until: self.until.max(Self::new(sent).until), ..Self::new(sent) };
    }

    /// Notes a renewal without an answer.
    pub(super) fn not_renewed(&mut self, now: Instant) {
        self.renew_at = now + RENEW_RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_here_before_it_is_over_in_redis() {
        let sent = Instant::now();
        let mut validity = Validity::new(sent);
        assert!(validity.holds(sent + Duration::from_millis(4999)));
        assert!(!validity.holds(sent + Duration::from_secs(5)));
        // The answer may come late: it counts from when the renewal was sent.
        let renewal = sent + Duration::from_secs(2);
        validity.renewed(renewal);
        assert!(!validity.holds(renewal + Duration::from_secs(5)));
        assert_eq!(validity.renew_at(), renewal + RENEW_INTERVAL);
        // An older answer shortens nothing.
        validity.renewed(sent);
        assert!(validity.holds(renewal + Duration::from_secs(4)));
    }

    #[test]
    fn several_renewals_may_fail_before_a_lease_is_lost() {
        let sent = Instant::now();
        let mut validity = Validity::new(sent);
        let mut tries = 0;
        while validity.holds(validity.renew_at()) {
            validity.not_renewed(validity.renew_at());
            tries += 1;
        }
        assert!(tries >= 5, "{tries}");
    }
}
