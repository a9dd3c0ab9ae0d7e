//! The edge guard: stops a runaway client before it costs anything. It is not a quota.
//!
//! `tower_governor` configures and counts; its layer is not used. The layer answers a bare HTTP 429,
//! creates a clock for each refusal, and never drops idle peers.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::PeerIpKeyExtractor;

use crate::net::peer::network;

/// Time between two sweeps of idle peers: those whose calls have all been given back.
const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Calls that a peer may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeRate {
    /// Calls a second.
    pub rate: u32,
    /// Calls at once.
    pub burst: u32,
}

/// Counts calls per peer address: by IPv4 address or IPv6 /64, never by a forwarded header.
#[derive(Debug)]
pub struct Guard {
    config: Arc<Config>,
}

/// The extractor only determines the type of keys. They are made from the connection's address.
type Config = GovernorConfig<PeerIpKeyExtractor, NoOpMiddleware>;

impl Guard {
    /// Creates a guard, and starts the task that drops idle peers. Both numbers are at least 1.
    pub fn new(rate: EdgeRate) -> Option<Self> {
        let period = Duration::from_secs(1) / rate.rate.max(1);
        let config = GovernorConfigBuilder::default()
            .period(period.max(Duration::from_nanos(1)))
            .burst_size(rate.burst)
            .key_extractor(PeerIpKeyExtractor)
            .finish()?;
        let config = Arc::new(config);
        tokio::spawn(drop_idle_peers(Arc::downgrade(&config)));
        Some(Self { config })
    }

    /// Counts a call of a peer.
    ///
    /// # Errors
    ///
    /// If the peer has no calls left: the time until the next one, in whole seconds, at least one.
    pub fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let limiter = self.config.limiter();
        limiter.check_key(&network(address)).map_err(|denied| {
            let wait = denied.wait_time_from(limiter.clock().now());
            Duration::from_secs(wait.as_secs() + 1)
        })
    }
}

async fn drop_idle_peers(config: Weak<Config>) {
    let mut interval = tokio::time::interval(IDLE_SWEEP_INTERVAL);
    loop {
        interval.tick().await;
        let Some(config) = config.upgrade() else { return };
        config.limiter().retain_recent();
        config.limiter().shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_used_up_its_burst_waits_and_others_do_not() {
        let guard = Guard::new(EdgeRate { rate: 1, burst: 2 }).unwrap();
        let [peer, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        assert_eq!((guard.check(peer), guard.check(peer)), (Ok(()), Ok(())));
        let wait = guard.check(peer).unwrap_err();
        assert!((1..=2).contains(&wait.as_secs()) && wait.subsec_nanos() == 0, "{wait:?}");
        assert_eq!(guard.check(other), Ok(()));
    }
}
