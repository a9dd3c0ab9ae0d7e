//! What a cluster holds: every cursor and every event, by partition.

use std::collections::{HashMap, HashSet};

use markread_harness::RedisCluster;
use markread_harness::cluster::{partition_of, tags};

use crate::PARTITIONS;

/// Keys that are read in one round trip.
const BATCH: usize = 200;

/// The contents of a cluster.
pub(crate) struct Accounts {
    /// The message of each reader's conversations.
    pub(crate) cursors: HashMap<(u64, u64), u64>,
    /// Reader, recipient and message of each event, by partition in the order of the stream.
    pub(crate) events: Vec<(u64, u64, u64)>,
}

impl Accounts {
    /// Reads them from the masters of now. Each key must be in the partition of its reader.
    pub(crate) async fn of(cluster: &RedisCluster) -> Self {
        let tags = tags(PARTITIONS);
        let mut accounts = Self { cursors: HashMap::new(), events: Vec::new() };
        let mut owners = cluster.owners().await;
        owners.sort_unstable();
        owners.dedup();
        for owner in owners {
            let node = cluster.node(owner);
            let mut connection = node.connection().await;
            let keys: Vec<String> = node.run("KEYS markread:{*}:cursors:*").await;
            for keys in keys.chunks(BATCH) {
                let mut pipe = redis::pipe();
                for key in keys {
                    pipe.hgetall(key);
                }
                let hashes: Vec<HashMap<String, String>> =
                    pipe.query_async(&mut connection).await.unwrap();
                for (key, hash) in keys.iter().zip(hashes) {
                    let reader: u64 = key.rsplit(':').next().unwrap().parse().unwrap();
                    let tag = &tags[partition_of(reader, PARTITIONS)];
                    assert_eq!(*key, format!("markread:{{{tag}}}:cursors:{reader}"));
                    accounts.add_cursors(reader, &hash);
                }
            }
            let streams: Vec<String> = node.run("KEYS direct_message_mark_read_events:{*}").await;
            for stream in streams {
                let entries: Vec<(String, HashMap<String, String>)> =
                    node.run(&format!("XRANGE {stream} - +")).await;
                for (_, fields) in entries {
                    let event = event(&fields["payload"]);
                    let tag = &tags[partition_of(event.0, PARTITIONS)];
                    assert_eq!(stream, format!("direct_message_mark_read_events:{{{tag}}}"));
                    accounts.events.push(event);
                }
            }
        }
        accounts
    }

    fn add_cursors(&mut self, reader: u64, hash: &HashMap<String, String>) {
        for (field, message) in hash {
            // A field with a sign is a time.
            let Ok(recipient) = field.parse::<u64>() else { continue };
            let other = self.cursors.insert((reader, recipient), message.parse().unwrap());
            assert_eq!(other, None, "a cursor is on one master only");
        }
    }

    /// Asserts that no event is there twice, and that no event is ahead of its cursor.
    pub(crate) fn assert_published_once(&self) {
        let distinct: HashSet<_> = self.events.iter().collect();
        assert_eq!(distinct.len(), self.events.len(), "events are doubled");
        let ahead = self.events.iter().filter(|(reader, recipient, message)| {
            self.cursors.get(&(*reader, *recipient)).is_none_or(|cursor| cursor < message)
        });
        assert_eq!(ahead.count(), 0, "events without their cursor");
    }
}

/// Reader, recipient and message of a payload.
fn event(payload: &str) -> (u64, u64, u64) {
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
    let event = &payload["direct_message_mark_read_events"][0];
    let id = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
    (
        id(&event["sender_id"]),
        id(&event["target"]["recipient_id"]),
        id(&event["last_read_event_id"]),
    )
}

/// The accounts themselves: each kind of loss is seen.
mod tests {
    use super::Accounts;

    fn accounts(events: &[(u64, u64, u64)]) -> Accounts {
        Accounts { cursors: [((1, 2), 5)].into(), events: events.to_vec() }
    }

    #[test]
    fn one_event_for_each_advance_is_right() {
        accounts(&[(1, 2, 4), (1, 2, 5)]).assert_published_once();
    }

    #[test]
    #[should_panic(expected = "events are doubled")]
    fn a_doubled_event_is_seen() {
        accounts(&[(1, 2, 5), (1, 2, 5)]).assert_published_once();
    }

    #[test]
    #[should_panic(expected = "events without their cursor")]
    fn an_event_without_its_cursor_is_seen() {
        accounts(&[(1, 2, 6)]).assert_published_once();
    }
}
