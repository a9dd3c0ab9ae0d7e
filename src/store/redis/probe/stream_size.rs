//! The size of the stream, for `--stream-max-bytes`.

use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::store::redis::stream::Span;

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
    /// Asks Redis for the size of a stream. Returns `None` if Redis does not reveal it.
    pub(crate) async fn ask(connection: &mut MultiplexedConnection, stream: &str) -> Option<u64> {
        let mut ask = cmd("MEMORY");
        ask.arg("USAGE").arg(stream).arg("SAMPLES").arg(SAMPLED_NODES);
        let bytes: Option<u64> = ask.query_async(connection).await.ok()?;
        Some(bytes.unwrap_or_default())
    }

    /// Estimates the size of a stream, by what Redis says and by its span.
    pub(crate) fn add(&mut self, bytes: u64, span: &Span) -> Measurement {
        self.newest_bytes =
            (self.newest_bytes * (NEWEST_SHARE - 1) + span.newest_bytes).div_ceil(NEWEST_SHARE);
        let by_newest = self.newest_bytes.saturating_mul(span.nodes);
        Measurement { length: span.bounds.length, bytes: bytes.max(by_newest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogBounds;

    fn span(nodes: u64, newest_bytes: u64) -> Span {
        let bounds = LogBounds { length: nodes, ..LogBounds::default() };
        Span { bounds, nodes, newest_bytes, ..Span::default() }
    }

    #[test]
    fn small_entries_are_measured_by_redis_and_larger_newest_ones_here() {
        let mut size = StreamSize::default();
        let measured = size.add(4_000_000, &span(1000, 200));
        assert_eq!(measured, Measurement { length: 1000, bytes: 4_000_000 });
        // Entries become larger: within a minute of probes the result follows.
        for _ in 0..60 {
            size.add(4_000_000, &span(1000, 33_000));
        }
        let bytes = size.add(4_000_000, &span(1000, 33_000)).bytes;
        assert!((30_000_000..=33_200_000).contains(&bytes), "{bytes}");
        // And back.
        for _ in 0..120 {
            size.add(33_000_000, &span(1000, 200));
        }
        assert_eq!(size.add(4_000_000, &span(1000, 200)).bytes, 4_000_000);
    }
}
