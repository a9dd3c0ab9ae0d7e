//! What is exported of all partitions and nodes together: each node's supervisor adds what it found.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::store::redis::stream_limit::StreamLimit;
use crate::telemetry::metrics::{self, GroupGauges};

/// Most consumer groups that are exported: each is a series of its own.
const GROUPS_MAX: usize = 32;

/// Most processes whose evicted keys are remembered.
const PROCESSES_MAX: usize = 4096;

/// The last findings, by partition and by node.
#[derive(Debug, Default)]
pub(crate) struct Totals(Mutex<Findings>);

#[derive(Debug, Default)]
struct Findings {
    streams: BTreeMap<usize, StreamFinding>,
    memory: BTreeMap<String, Memory>,
    /// The evicted keys that each Redis process had counted, by its run ID.
    evicted_keys: BTreeMap<String, u64>,
}

/// What was found of a partition's stream.
#[derive(Debug, Default)]
pub(super) struct StreamFinding {
    pub(super) length: u64,
    pub(super) oldest_age: Duration,
    /// Its size, if that is bounded and was measured.
    pub(super) bytes: Option<u64>,
    pub(super) groups: Vec<GroupGauges>,
    /// Whether entries were removed.
    pub(super) is_trimmed: bool,
}

/// The memory of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) used: u64,
    /// 0 is no limit.
    pub(super) max: u64,
}

impl Totals {
    /// Takes over what was found of the streams of a node.
    pub(super) fn add_streams(&self, found: Vec<(usize, StreamFinding)>, limit: &StreamLimit) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.streams.extend(found);
        let streams = || findings.streams.values();
        let length = streams().map(|stream| stream.length).sum();
        // How far back a reader can go on is the least age of those that were trimmed.
        let trimmed = streams().filter(|stream| stream.is_trimmed);
        let oldest_age = trimmed.map(|stream| stream.oldest_age).min();
        let oldest_age = oldest_age.or(streams().map(|stream| stream.oldest_age).max());
        metrics::set_stream(length, oldest_age.unwrap_or_default());
        if limit.max_bytes().is_some() {
            let measured = || streams().filter_map(|stream| Some((stream.length, stream.bytes?)));
            let bytes = measured().map(|(_, bytes)| bytes).sum();
            metrics::set_stream_bytes(bytes);
            limit.adapt(measured().map(|(length, _)| length).sum(), bytes);
        }
        metrics::set_groups(total_groups(streams()));
    }

    /// Counts the keys that a Redis process has evicted since they were counted last.
    pub(super) fn count_evicted_keys(&self, run_id: &str, evicted: u64) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = findings.evicted_keys.insert(run_id.to_owned(), evicted).unwrap_or_default();
        metrics::count_redis_evicted_keys(evicted.saturating_sub(counted));
        while findings.evicted_keys.len() > PROCESSES_MAX {
            findings.evicted_keys.pop_first();
        }
    }

    /// Takes over the memory of a node.
    pub(super) fn add_memory(&self, node: &str, memory: Memory) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.memory.insert(node.to_owned(), memory);
        if let Some(fullest) = findings.memory.values().copied().max_by(Memory::compare) {
            metrics::set_redis_memory(fullest.used, fullest.max);
        }
    }

    /// Forgets a node that is gone.
    pub(crate) fn forget_node(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).memory.remove(node);
    }
}

impl Memory {
    /// Compares by how full a node is, and without a limit by what is used.
    fn compare(one: &Self, other: &Self) -> std::cmp::Ordering {
        let share =
            |memory: &Self| u128::from(memory.used) * 1_000_000 / u128::from(memory.max.max(1));
        match (one.max, other.max) {
            (0, 0) => one.used.cmp(&other.used),
            (0, _) => std::cmp::Ordering::Less,
            (_, 0) => std::cmp::Ordering::Greater,
            _ => share(one).cmp(&share(other)),
        }
    }
}

/// Adds up the groups of all streams by their names. What Redis does not know of one stream is not known
/// of the group.
fn total_groups<'a>(streams: impl Iterator<Item = &'a StreamFinding>) -> Vec<GroupGauges> {
    let mut totals: BTreeMap<&str, GroupGauges> = BTreeMap::new();
    for group in streams.flat_map(|stream| &stream.groups) {
        if let Some(total) = totals.get_mut(&*group.name) {
            total.has_trimmed_unread |= group.has_trimmed_unread;
            let both = total.unread.zip(group.unread);
            total.unread = both.map(|(one, other)| one.saturating_add(other));
        } else if totals.len() < GROUPS_MAX {
            totals.insert(&group.name, group.clone());
        }
    }
    totals.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_added_up_by_name() {
        let group = |name: &str, unread, has_trimmed_unread| GroupGauges {
            name: name.to_owned(),
            unread,
            has_trimmed_unread,
        };
        let stream = |groups| StreamFinding { groups, ..StreamFinding::default() };
        let streams = [
            stream(vec![group("a", Some(1), false), group("b", Some(7), false)]),
            stream(vec![group("a", Some(2), true), group("b", None, false)]),
        ];
        let totals = total_groups(streams.iter());
        assert_eq!(totals, [group("a", Some(3), true), group("b", None, false)]);
    }

    #[test]
    fn the_fullest_node_is_the_one_with_the_least_room_by_share() {
        let memory = |used, max| Memory { used, max };
        let nodes = [memory(50, 100), memory(90, 1000), memory(99, 0)];
        let fullest = nodes.into_iter().max_by(Memory::compare).unwrap();
        assert_eq!((fullest.used, fullest.max), (50, 100));
    }
}
