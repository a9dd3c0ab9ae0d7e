//! What Redis holds, read from it directly.

use std::collections::{HashMap, HashSet};

use markread_harness::Redis;
use markread_harness::cluster::{partition_of, tags};
use markread_harness::events::STREAM;

use super::settings::{PARTITIONS, RATE_LIMIT, REDIS_LOG};
use super::{Store, World};
use crate::history::{Conversation, Event};

/// Keys in one round trip.
const BATCH: usize = 1000;

/// The rate window by default.
const WINDOW_MS: u64 = 15 * 60 * 1000;

impl World {
    /// The key of each partition's stream.
    pub fn streams(&self) -> Vec<String> {
        match &self.store {
            Store::Cluster(_) => {
                tags(PARTITIONS).iter().map(|tag| format!("{STREAM}:{{{tag}}}")).collect()
            }
            _ => vec![STREAM.to_owned()],
        }
    }

    /// All cursors, of whichever hash. Panics if a conversation has two.
    pub async fn cursors(&self) -> Vec<(Conversation, u64)> {
        let mut cursors = HashMap::new();
        for master in self.masters().await {
            for (conversation, cursor) in cursors_at(master).await {
                let other = cursors.insert(conversation, cursor);
                assert_eq!(other, None, "{conversation:?} has two cursors");
            }
        }
        let mut cursors: Vec<_> = cursors.into_iter().collect();
        cursors.sort_unstable();
        cursors
    }

    /// All events, in the order of each stream.
    pub async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (partition, stream) in self.streams().iter().enumerate() {
            let entries = self.master_of(stream).await.stream(stream).await;
            events.extend(
                entries.iter().map(|(entry, fields)| event(partition, *entry, &fields["payload"])),
            );
        }
        events
    }

    /// The events among a webhook's dead letters.
    pub async fn dead_letters(&self, webhook: &str) -> Vec<Event> {
        let key = format!("markread:dead_letters:{webhook}");
        let letters = self.master_of(&key).await.stream(&key).await;
        let with_event = letters.iter().filter_map(|(_, fields)| {
            let (ms, sequence) = fields.get("entry_id")?.split_once('-')?;
            let entry = (ms.parse().ok()?, sequence.parse().ok()?);
            Some(event(fields.get("partition")?.parse().ok()?, entry, fields.get("payload")?))
        });
        with_event.collect()
    }

    /// The lines of the log of each Redis that holds data.
    pub fn redis_logs(&self) -> Vec<Vec<String>> {
        let read = |node: &Redis| std::fs::read_to_string(node.dir().join(REDIS_LOG));
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        self.nodes().into_iter().map(|node| lines(read(node).unwrap_or_default())).collect()
    }

    /// Leaves so many marks of a reader's quota.
    pub async fn leave_of_quota(&self, reader: u64, left: u64) {
        let key = match &self.store {
            Store::Cluster(_) => {
                let tag = &tags(PARTITIONS)[partition_of(reader, PARTITIONS)];
                format!("markread:{{{tag}}}:quota:{reader}")
            }
            _ => format!("markread:quota:{reader}"),
        };
        let used = RATE_LIMIT - left;
        let set = format!("SET {key} {used} PX {WINDOW_MS}");
        self.master_of(&key).await.run::<()>(&set).await;
    }

    /// How many entries the relays say that a webhook has missed.
    pub async fn missed(&self, webhook: &str) -> u64 {
        let mut missed = 0.0;
        let label = format!("webhook=\"{webhook}\"");
        for relay in self.relays.iter().flatten() {
            missed += relay.metric("markread_relay_missed_entries_total", &[&label]).await;
        }
        format!("{missed:.0}").parse().unwrap()
    }
}

/// The cursors that a node holds.
async fn cursors_at(master: &Redis) -> Vec<(Conversation, u64)> {
    let mut connection = master.connection().await;
    let keys: Vec<String> = master.run("KEYS markread:*cursors:*").await;
    let keys: HashSet<_> = keys.into_iter().collect();
    let keys: Vec<_> = keys.into_iter().collect();
    let mut cursors = Vec::new();
    for keys in keys.chunks(BATCH) {
        // Each in a call of its own: their slots differ in a cluster.
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("HGETALL").arg(key);
        }
        let hashes: Vec<HashMap<String, String>> =
            pipe.query_async(&mut connection).await.expect("hashes of cursors");
        for (key, hash) in keys.iter().zip(hashes) {
            let (_, after) = key.split_once("cursors:").unwrap();
            let reader = after.split(':').next().unwrap().parse().unwrap();
            for (field, cursor) in hash {
                // The others are the times, and the numbers of buckets.
                let Ok(recipient) = field.parse() else { continue };
                cursors.push((Conversation { reader, recipient }, cursor.parse().unwrap()));
            }
        }
    }
    cursors
}

/// The event in a payload.
fn event(partition: usize, entry: (u64, u64), payload: &str) -> Event {
    let payload: serde_json::Value = serde_json::from_str(payload).expect("a payload is JSON");
    let event = &payload["direct_message_mark_read_events"][0];
    let id = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
    let conversation = Conversation {
        reader: id(&event["sender_id"]),
        recipient: id(&event["target"]["recipient_id"]),
    };
    Event { partition, entry, conversation, message: id(&event["last_read_event_id"]) }
}
