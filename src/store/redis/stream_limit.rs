//! The length that the stream is trimmed to: `--stream-maxlen`, or less if its entries are so large that
//! the stream would exceed `--stream-max-bytes`.

use std::sync::atomic::{AtomicU64, Ordering};

/// The length that the stream is trimmed to, in entries. Marks read it, and each probe renews it.
#[derive(Debug)]
pub(crate) struct StreamLimit {
    /// `--stream-maxlen`; 0 is any length.
    max_entries: u64,
    /// `--stream-max-bytes`.
    max_bytes: Option<u64>,
    /// Streams that share the limits: one for each partition.
    streams: u64,
    /// The length of each stream.
    current: AtomicU64,
}

impl StreamLimit {
    /// Creates it for so many streams, which share the limits.
    pub(crate) fn new(max_entries: u64, max_bytes: Option<u64>, streams: usize) -> Self {
        let streams = u64::try_from(streams).unwrap_or(u64::MAX).max(1);
        let current = AtomicU64::new(max_entries.div_ceil(streams));
        Self { max_entries, max_bytes, streams, current }
    }

    /// Returns the current length of a stream; 0 is any length.
    pub(crate) fn entries(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// Returns the length of a stream if it never changes: without a bound of the size.
    pub(crate) fn constant(&self) -> Option<u64> {
        self.max_bytes.is_none().then_some(self.max_entries.div_ceil(self.streams))
    }

    /// Returns the size that all streams together may have, if it is bounded.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// Adapts the length to the measured length and size of all streams together.
    pub(crate) fn adapt(&self, length: u64, bytes: u64) {
        let Some(max_bytes) = self.max_bytes else { return };
        let fit = (u128::from(length) * u128::from(max_bytes)).checked_div(u128::from(bytes));
        let fit = fit.filter(|_| length > 0).map(|fit| u64::try_from(fit).unwrap_or(u64::MAX));
        let entries = match (fit, self.max_entries) {
            (None, max) => max,
            // 0 would be any length.
            (Some(fit), 0) => fit.max(1),
            (Some(fit), max) => fit.clamp(1, max),
        };
        // Redis reads a signed number.
        let entries = entries.div_ceil(self.streams).min(i64::MAX.cast_unsigned());
        self.current.store(with_two_digits(entries), Ordering::Relaxed);
    }
}

/// Rounds down to two digits, so that the length does not change with each probe: it is an estimate.
fn with_two_digits(number: u64) -> u64 {
    let mut scale = 1;
    while number / scale >= 100 {
        scale *= 10;
    }
    number / scale * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_follows_the_measured_size() {
        const MIB: u64 = 1024 * 1024;
        let table = [
            // max entries, max bytes, length, bytes, entries
            (1_000_000, None, 1_000_000, 500 * MIB, 1_000_000),
            (1_000_000, Some(100 * MIB), 0, 0, 1_000_000),
            (1_000_000, Some(100 * MIB), 1000, MIB, 100_000),
            (1_000_000, Some(100 * MIB), 1000, MIB / 100, 1_000_000),
            (1_000_000, Some(100 * MIB), 50_000, 200 * MIB, 25_000),
            (0, Some(100 * MIB), 50_000, 200 * MIB, 25_000),
            (0, Some(MIB), 1, 200 * MIB, 1),
            (0, Some(u64::MAX), u64::MAX, 1, 9_200_000_000_000_000_000),
            (0, Some(1_299), 1_000, 1_000, 1_200),
            (0, Some(99), 100, 100, 99),
        ];
        for (max_entries, max_bytes, length, bytes, entries) in table {
            let limit = StreamLimit::new(max_entries, max_bytes, 1);
            assert_eq!(limit.entries(), max_entries);
            limit.adapt(length, bytes);
            assert_eq!(limit.entries(), entries, "{max_entries} {max_bytes:?} {length} {bytes}");
        }
    }
}
