//! Open connections of each peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peer::network;

/// Counts open connections per peer: by IPv4 address or IPv6 /64. It holds peers with an open connection
/// only.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    max: Option<usize>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct PeerSlot {
    peers: Peers,
    network: IpAddr,
}

impl Peers {
    /// Creates it with a maximum for each peer; `None` is any number.
    pub(super) fn new(max: Option<usize>) -> Self {
        Self { max, open: Arc::default() }
    }

    /// Counts a connection; `None` if its peer has the maximum.
    pub(super) fn enter(&self, address: IpAddr) -> Option<PeerSlot> {
        let network = network(address);
        let mut open = self.lock();
        let count = open.entry(network).or_default();
        if self.max.is_some_and(|max| *count >= max) {
            return None;
        }
        *count += 1;
        Some(PeerSlot { peers: self.clone(), network })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_has_the_maximum_and_another_too() {
        let peers = Peers::new(Some(2));
        let first = peers.enter(address("2001:db8::1"));
        let second = peers.enter(address("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(peers.enter(address("2001:db8::3")).is_none());
        assert!(peers.enter(address("2001:db8:0:1::1")).is_some());
        drop(first);
        assert!(peers.enter(address("2001:db8::3")).is_some());
        drop(second);
        assert!(peers.lock().is_empty(), "a peer without a connection takes no memory");
    }

    #[test]
    fn without_a_maximum_a_peer_has_any_number() {
        let peers = Peers::new(None);
        let open: Vec<_> = (0..100).map(|_| peers.enter(address("192.0.2.1"))).collect();
        assert!(open.iter().all(Option::is_some));
    }
}
