//! The read side: what is read, in one call or in pages, and what it costs; and marks in batches.

use tonic::metadata::MetadataMap;

use crate::harness::Redis;
use crate::harness::caller::number;

mod batches;
mod buckets;
mod commands;
mod crowd;
mod pages;
mod refusals;
mod states;
mod stores;
mod watch;

const MAX_ID: u64 = (1 << 63) - 1;

/// A rate limit that no test here reaches.
const MANY: [&str; 2] = ["--rate-limit", "1000000"];

/// What an answer says of a quota: all of a window, and what is left of it.
#[track_caller]
fn quota(metadata: &MetadataMap) -> (i64, i64) {
    assert!(number(metadata, "x-rate-limit-reset") > 0);
    (number(metadata, "x-rate-limit-limit"), number(metadata, "x-rate-limit-remaining"))
}

#[track_caller]
fn assert_no_quota(metadata: &MetadataMap) {
    for name in ["x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset"] {
        assert!(metadata.get(name).is_none(), "no quota was reached, but there is {name}");
    }
}

/// Reads used in a reader's window.
async fn reads_used(redis: &Redis, reader: u64) -> Option<u64> {
    redis.run(&format!("GET markread:read_quota:{reader}")).await
}
