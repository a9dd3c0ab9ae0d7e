//! What a cluster holds.

use super::RedisCluster;

impl RedisCluster {
    /// The payloads in the streams of all partitions, by their time.
    pub async fn payloads(&self) -> Vec<String> {
        let mut entries = Vec::new();
        for (owner, stream) in self.keys("direct_message_mark_read_events:{*}").await {
            let of_stream = self.nodes[owner].stream(&stream).await;
            entries.extend(
                of_stream
                    .into_iter()
                    .map(|(id, mut fields)| (id, fields.remove("payload").unwrap())),
            );
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
