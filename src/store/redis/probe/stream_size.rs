//! The size of the stream, for `--stream-max-bytes`.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, pipe};

/// Nodes of the stream, from the oldest on, whose size Redis measures at each probe. A node has about 4 KB
/// of entries, or one entry that is larger (`stream-node-max-bytes`); a thousand take it 0.1 ms.
const SAMPLED_NODES: usize = 1000;

/// Weight of the newest entry in the average of the newest ones: one in this many.
const NEWEST_SHARE: u64 = 16;

/// Measures the stream.
///
/// Redis multiplies the average size of the oldest nodes by their number. When entries become larger
/// that is too little, so the newest entry is measured too, and the greater result counts.
#[derive(Debug, Default)]
pub(crate) struct StreamSize {
    /// Moving average of the newest entry's size, in bytes, over the probes.
    newest_bytes: u64,
}

/// A stream's length and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measurement {
    pub(crate) length: u64,
    pub(crate) bytes: u64,
}

impl StreamSize {
    /// Measures once. Returns `None` if Redis does not reveal the size.
    pub(crate) async fn measure(
        &mut self,
        connection: &mut MultiplexedConnection,
        stream: &str,
    ) -> Option<Measurement> {
        let mut ask = pipe();
        ask.cmd("MEMORY").arg("USAGE").arg(stream).arg("SAMPLES").arg(SAMPLED_NODES);
        ask.cmd("XINFO").arg("STREAM").arg(stream).ignore_errors();
        let (bytes, info): (RedisResult<Option<u64>>, RedisResult<HashMap<String, Value>>) =
            ask.query_async(connection).await.ok()?;
        let Some(bytes) = bytes.ok()? else { return Some(Measurement { length: 0, bytes: 0 }) };
        Some(self.add(bytes, &info.ok()?))
    }

    fn add(&mut self, bytes: u64, info: &HashMap<String, Value>) -> Measurement {
        let number = |name: &str| match info.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).unwrap_or_default(),
            _ => 0,
        };
        let newest = info.get("last-entry").map_or(0, text_bytes);
        self.newest_bytes =
            (self.newest_bytes * (NEWEST_SHARE - 1) + newest).div_ceil(NEWEST_SHARE);
        let by_newest = self.newest_bytes.saturating_mul(number("radix-tree-keys"));
        Measurement { length: number("length"), bytes: bytes.max(by_newest) }
    }
}

/// Returns the total length of the texts in an entry.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::BulkString(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(nodes: i64, newest: usize) -> HashMap<String, Value> {
        let fields = [Value::BulkString(b"payload".to_vec()), Value::BulkString(vec![0; newest])];
        let entry = [Value::BulkString(b"1-0".to_vec()), Value::Array(fields.into())];
        [
            ("length".to_owned(), Value::Int(nodes)),
            ("radix-tree-keys".to_owned(), Value::Int(nodes)),
            ("last-entry".to_owned(), Value::Array(entry.into())),
        ]
        .into()
    }

    #[test]
    fn small_entries_are_measured_by_redis_and_larger_newest_ones_here() {
        let mut size = StreamSize::default();
        let measured = size.add(4_000_000, &info(1000, 200));
        assert_eq!(measured, Measurement { length: 1000, bytes: 4_000_000 });
        // Entries become larger: within a minute of probes the result follows.
        for _ in 0..60 {
            size.add(4_000_000, &info(1000, 33_000));
        }
        let bytes = size.add(4_000_000, &info(1000, 33_000)).bytes;
        assert!((30_000_000..=33_200_000).contains(&bytes), "{bytes}");
        // And back.
        for _ in 0..120 {
            size.add(33_000_000, &info(1000, 200));
        }
        assert_eq!(size.add(4_000_000, &info(1000, 200)).bytes, 4_000_000);
    }
}
