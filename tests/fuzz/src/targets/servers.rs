//! What nodes of a cluster and Sentinels say.

use markread::store::redis::fuzzing as store;
use redis::{Value, parse_redis_value};

use crate::input::{assert_loggable, halves};

const SLOTS: usize = 16_384;

/// `CLUSTER NODES`, then `CLUSTER SLOTS`: each slot has one owner or none, whose address can be written and
/// parsed.
pub(super) fn cluster_nodes(data: &[u8]) {
    let (nodes, slots) = halves(data);
    let Ok(nodes) = std::str::from_utf8(nodes) else { return };
    let slots = parse_redis_value(slots).unwrap_or(Value::Array(Vec::new()));
    let Ok((owners, moving)) = store::slot_owners(nodes, &slots, "seed") else { return };
    assert_eq!(owners.len(), SLOTS);
    let mut owners: Vec<_> = owners.into_iter().flatten().collect();
    owners.dedup();
    for owner in owners {
        assert_loggable(&owner);
        assert_eq!(store::address(&owner).as_deref(), Some(&*owner));
    }
    assert!(moving.len() <= nodes.len());
}

/// An error of a node: only a code that says so means that nothing was run.
pub(super) fn redirection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(address) = store::redirection(text) {
        let code = text.split(' ').next().unwrap_or_default();
        let codes =
            ["MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY", "ERR"];
        assert!(codes.contains(&code), "{text}");
        // Of a long error the first 300 bytes are kept.
        assert!(address.is_empty() || text.len() > 300 || text.contains(&address));
    }
    if let Some(address) = store::address(text) {
        assert_loggable(&address);
        assert_eq!(store::address(&address), Some(address));
    }
}

/// A Sentinel's replies: a master has a host, a port and an epoch.
pub(super) fn sentinel(data: &[u8]) {
    let (master, place) = halves(data);
    let (Ok(master), Ok(place)) = (parse_redis_value(master), parse_redis_value(place)) else {
        return;
    };
    if let Some((address, _)) = store::sentinel_master(master, place) {
        assert_loggable(&address);
        assert_eq!(store::address(&address).as_deref(), Some(&*address));
        let host = address.rsplit_once(':').map(|(host, _)| host);
        assert!(host.is_some_and(|host| !host.is_empty()), "no host: {address}");
        assert!(!address.ends_with(":0"), "no port: {address}");
    }
}
