//! Which process delivers which feed. Every process computes it by itself, from the same list of processes.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::WebhookName;
use crate::store::relay::{FeedId, RelayProcess};

/// Returns the feeds of a process, of so many partitions.
///
/// Each process that is alive gets as many feeds as the others, or one more. A feed goes to the process that it
/// prefers by a hash, among those that have room: so that few feeds move when a process comes or goes.
/// Processes may know different webhooks while their files differ.
pub(super) fn feeds_of(
    process: &str,
    processes: &[RelayProcess],
    partitions: usize,
) -> BTreeSet<FeedId> {
    let assigned = assign(processes, partitions);
    assigned.into_iter().filter(|(_, owner)| *owner == process).map(|(feed, _)| feed).collect()
}

fn assign(processes: &[RelayProcess], partitions: usize) -> BTreeMap<FeedId, &str> {
    let mut knowing: BTreeMap<&WebhookName, BTreeSet<&str>> = BTreeMap::new();
    for process in processes {
        for webhook in &process.webhooks {
            knowing.entry(webhook).or_default().insert(&process.id);
        }
    }
    let mut rooms = rooms(&knowing, partitions);
    // Webhooks that few processes know come first, while those have room.
    let mut webhooks: Vec<_> = knowing.into_iter().collect();
    webhooks.sort_by_key(|(_, processes)| processes.len());
    let mut assigned = BTreeMap::new();
    for (webhook, processes) in &webhooks {
        for partition in 0..partitions {
            let feed = FeedId { webhook: (*webhook).clone(), partition };
            let Some(owner) = choose(&feed, processes, &rooms) else { continue };
            if let Some(room) = rooms.get_mut(owner) {
                *room -= 1;
            }
            assigned.insert(feed, owner);
        }
    }
    assigned
}

/// Returns how many feeds each process is to have.
fn rooms<'a>(
    knowing: &BTreeMap<&WebhookName, BTreeSet<&'a str>>,
    partitions: usize,
) -> BTreeMap<&'a str, i64> {
    let ids: BTreeSet<_> = knowing.values().flatten().copied().collect();
    let (feeds, count) = (knowing.len() * partitions, ids.len().max(1));
    let room = |index| {
        let room = feeds / count + usize::from(index < feeds % count);
        i64::try_from(room).unwrap_or(i64::MAX)
    };
    ids.into_iter().enumerate().map(|(index, id)| (id, room(index))).collect()
}

/// Chooses the preferred process that has room; if none has, that with the least more than its share.
fn choose<'a>(
    feed: &FeedId,
    processes: &BTreeSet<&'a str>,
    rooms: &BTreeMap<&'a str, i64>,
) -> Option<&'a str> {
    let rank = |id: &&'a str| {
        let room = rooms.get(*id).copied().unwrap_or_default();
        (room.min(1), if room > 0 { 0 } else { room }, preference(feed, id))
    };
    processes.iter().copied().max_by_key(rank)
}

/// Returns how much a feed prefers a process. The same in every version of the program (FNV-1a, and
/// the finalizer of `SplitMix64`, by which all bits depend on all).
fn preference(feed: &FeedId, process: &str) -> u64 {
    let partition = feed.partition.to_string();
    let bytes = [feed.webhook.as_str(), ":", &partition, ":", process].into_iter();
    let hash = bytes.flat_map(str::bytes).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: &str, webhooks: &[&str]) -> RelayProcess {
        let webhooks = webhooks.iter().map(|name| name.parse().unwrap()).collect();
        RelayProcess { id: id.to_owned(), webhooks }
    }

    fn loads(processes: &[RelayProcess], partitions: usize) -> Vec<usize> {
        let feeds = |process: &RelayProcess| feeds_of(&process.id, processes, partitions).len();
        processes.iter().map(feeds).collect()
    }

    #[test]
    fn feeds_are_spread_evenly() {
        #[allow(clippy::type_complexity, reason = "a table")]
        let table: [(&[(&str, &[&str])], usize, &[usize]); 8] = [
            (&[("a", &["w"])], 1, &[1]),
            (&[("a", &[])], 64, &[0]),
            (&[("a", &["w"]), ("b", &["w"])], 1, &[1, 0]),
            (&[("a", &["w"]), ("b", &["w"])], 64, &[32, 32]),
            (&[("a", &["v", "w"]), ("b", &["v", "w"]), ("c", &["v", "w"])], 16, &[11, 11, 10]),
            // Only a process that knows the webhook can deliver it.
            (&[("a", &["w"]), ("b", &["v", "w"])], 2, &[2, 2]),
            (&[("a", &["u", "v", "w"]), ("b", &["w"])], 4, &[8, 4]),
            (&[("a", &["v"]), ("b", &["w"])], 3, &[3, 3]),
        ];
        for (processes, partitions, expected) in table {
            let processes: Vec<_> =
                processes.iter().map(|(id, webhooks)| process(id, webhooks)).collect();
            assert_eq!(loads(&processes, partitions), expected, "{processes:?} {partitions}");
        }
    }

    #[test]
    fn each_feed_has_one_process_in_whatever_order_they_are_listed() {
        let names: Vec<_> = (0..100).map(|name| format!("w{name}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut processes: Vec<_> = (0..7).map(|id| process(&format!("p{id}"), &names)).collect();
        let all: Vec<_> =
            processes.iter().map(|process| feeds_of(&process.id, &processes, 64)).collect();
        assert_eq!(all.iter().map(BTreeSet::len).sum::<usize>(), 6400);
        assert_eq!(all.iter().flatten().collect::<BTreeSet<_>>().len(), 6400);
        processes.reverse();
        for (index, feeds) in all.iter().enumerate() {
            assert_eq!(feeds_of(&format!("p{index}"), &processes, 64), *feeds);
        }
    }

    #[test]
    fn few_feeds_move_when_a_process_leaves() {
        let five: Vec<_> = (0..5).map(|id| process(&format!("p{id}"), &["v", "w"])).collect();
        let four = &five[..4];
        let moved: usize = four
            .iter()
            .map(|process| {
                let before = feeds_of(&process.id, &five, 64);
                before.difference(&feeds_of(&process.id, four, 64)).count()
            })
            .sum();
        // The feeds of the one that left are 25 of 128.
        assert!(moved <= 25, "{moved} more feeds moved");
    }
}
