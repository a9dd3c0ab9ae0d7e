//! The edge guard: stops a client that has run away before it costs anything. It is no quota.
//!
//! `tower_governor` counts calls per peer address. Its key, its refusal and the dropping of idle
//! peers are ours: as they come, they fail every call under tonic, answer a bare HTTP 429, and
//! never happen (DESIGN section 7).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use http::{Request, Response};
use tower::Layer;
use tower_governor::governor::{Governor, GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use crate::edge::Arrival;
use crate::edge::answer::Body;

/// How often the peers are dropped whose calls have all been given back.
const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// In the extensions of an answer: the guard refused, for at least this long.
#[derive(Clone, Copy, Debug)]
pub struct Limited(pub Duration);

/// How many calls a peer may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeRate {
    /// Calls a second.
    pub rate: u32,
    /// Calls at once.
    pub burst: u32,
}

/// A service behind the guard.
pub type Guarded<S> = Governor<PeerKey, NoOpMiddleware, S, Body>;

/// Puts the guard in front of a service. Both numbers are at least 1.
pub fn guard<S>(rate: EdgeRate, service: S) -> Option<Guarded<S>> {
    let period = Duration::from_secs(1) / rate.rate.max(1);
    let config = GovernorConfigBuilder::default()
        .period(period.max(Duration::from_nanos(1)))
        .burst_size(rate.burst)
        .key_extractor(PeerKey)
        .finish()?;
    let config = Arc::new(config);
    tokio::spawn(drop_idle_peers(Arc::downgrade(&config)));
    Some(GovernorLayer::new(config).error_handler(|error| refuse(&error)).layer(service))
}

async fn drop_idle_peers(config: Weak<GovernorConfig<PeerKey, NoOpMiddleware>>) {
    let mut interval = tokio::time::interval(IDLE_SWEEP_INTERVAL);
    loop {
        interval.tick().await;
        let Some(config) = config.upgrade() else { return };
        config.limiter().retain_recent();
        config.limiter().shrink_to_fit();
    }
}

/// Only marks the answer: how a refusal reads depends on the protocol, which the caller knows.
fn refuse(error: &GovernorError) -> Response<Body> {
    let wait_seconds = match error {
        // Whole seconds, rounded down: one more is enough.
        GovernorError::TooManyRequests { wait_time, .. } => wait_time + 1,
        GovernorError::UnableToExtractKey | GovernorError::Other { .. } => 1,
    };
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Limited(Duration::from_secs(wait_seconds)));
    response
}

/// Peers are told apart by IPv4 address or IPv6 /64, never by a forwarded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKey;

impl KeyExtractor for PeerKey {
    type Key = IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<IpAddr, GovernorError> {
        let arrival = request.extensions().get::<Arrival>();
        arrival
            .map(|arrival| network(arrival.peer.address))
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_apart_by_ipv4_address_and_ipv6_network() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
    }
}
