//! Quotas: how many calls a reader may make in a window.

/// The rate limit of each reader (`docs/contract.md`, "Quota").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls served in a window.
    pub calls: u64,
    /// The window's length in milliseconds.
    pub window_ms: u64,
}

impl RateLimit {
    /// Returns what is left of a window after `used` calls.
    pub fn quota(self, used: u64, reset_at_ms: u64) -> Quota {
        Quota { limit: self.calls, remaining: self.calls.saturating_sub(used), reset_at_ms }
    }
}

/// The quota that is left to a reader in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls served in a window.
    pub limit: u64,
    /// Calls left in this window.
    pub remaining: u64,
    /// When the window ends, in milliseconds since 1970 on the store's clock.
    pub reset_at_ms: u64,
}

impl Quota {
    /// When the window ends in Unix seconds, rounded up: a caller that waits until then is served.
    pub fn reset_at_seconds(&self) -> u64 {
        self.reset_at_ms.div_ceil(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_rounded_up_to_the_second() {
        let quota = |reset_at_ms| Quota { limit: 1, remaining: 0, reset_at_ms };
        assert_eq!(quota(1_000).reset_at_seconds(), 1);
        assert_eq!(quota(1_001).reset_at_seconds(), 2);
        assert_eq!(quota(1_999).reset_at_seconds(), 2);
    }
}
