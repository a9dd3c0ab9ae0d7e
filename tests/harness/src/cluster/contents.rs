//! What a cluster holds.

use std::collections::HashMap;

use super::RedisCluster;

impl RedisCluster {
    /// The payloads in the streams of all partitions, by their time.
    pub async fn payloads(&self) -> Vec<String> {
        let mut entries = Vec::new();
        for (owner, stream) in self.keys("direct_message_mark_read_events:{*}").await {
            let range = format!("XRANGE {stream} - +");
            let of_stream: Vec<(String, HashMap<String, String>)> =
                self.nodes[owner].run(&range).await;
            entries.extend(of_stream.into_iter().map(|(id, mut fields)| {
                let (ms, sequence) = id.split_once('-').unwrap();
                let id: (u64, u64) = (ms.parse().unwrap(), sequence.parse().unwrap());
                (id, fields.remove("payload").unwrap())
            }));
        }
        entries.sort();
        entries.into_iter().map(|(_, payload)| payload).collect()
    }

    /// Removes all keys.
    pub async fn flush(&self) {
        for owner in self.owners().await {
            self.nodes[owner].run::<()>("FLUSHALL").await;
        }
    }
}
