//! Mark-read events that are added to a stream without a server, as many as a test wants.

use redis::aio::MultiplexedConnection;

use crate::Redis;

/// The stream of events on one Redis.
pub const STREAM: &str = "direct_message_mark_read_events";

/// Entries that are added in one round trip.
const BATCH: usize = 500;

/// A valid payload without user objects.
pub fn payload(reader: u64, recipient: u64, message: u64) -> String {
    let users = if reader == recipient {
        format!(r#""{reader}":{{"id":"{reader}"}}"#)
    } else {
        format!(r#""{reader}":{{"id":"{reader}"}},"{recipient}":{{"id":"{recipient}"}}"#)
    };
    format!(
        r#"{{"direct_message_mark_read_events":[{{"created_timestamp":"1518127183443","sender_id":"{reader}","last_read_event_id":"{message}","target":{{"recipient_id":"{recipient}"}}}}],"users":{{{users}}}}}"#
    )
}

/// Adds entries with these payloads, and returns their IDs.
pub async fn publish(redis: &Redis, payloads: &[String]) -> Vec<String> {
    publish_by(&mut redis.connection().await, STREAM, payloads).await
}

/// The same as [`publish`], to a stream by its key.
pub async fn publish_by(
    connection: &mut MultiplexedConnection,
    stream: &str,
    payloads: &[String],
) -> Vec<String> {
    let mut ids = Vec::new();
    for batch in payloads.chunks(BATCH) {
        let mut pipe = redis::pipe();
        for payload in batch {
            pipe.cmd("XADD").arg(stream).arg("*").arg("payload").arg(payload);
        }
        ids.extend(pipe.query_async::<Vec<String>>(connection).await.unwrap());
    }
    ids
}

/// Adds one entry with these fields, which need not be valid, and returns its ID.
pub async fn publish_fields(redis: &Redis, fields: &[(&str, &[u8])]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*");
    for (name, value) in fields {
        add.arg(name).arg(value);
    }
    add.query_async(&mut redis.connection().await).await.unwrap()
}
