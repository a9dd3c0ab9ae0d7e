//! Reads, pages, watches and batches, and what they cost.

use markread_harness::Redis;
use markread_harness::caller::number;
use tonic::metadata::MetadataMap;

mod batches;
mod buckets;
mod commands;
mod crowd;
mod pages;
pub(crate) mod refusals;
mod states;
mod stores;
pub(crate) mod watch;

const MAX_ID: u64 = (1 << 63) - 1;

/// A rate limit that no test here reaches.
const MANY: [&str; 2] = ["--rate-limit", "1000000"];

/// The limit and the rest of a quota in an answer's metadata.
#[track_caller]
fn quota(metadata: &MetadataMap) -> (i64, i64) {
    assert!(number(metadata, "x-rate-limit-reset") > 0);
    (number(metadata, "x-rate-limit-limit"), number(metadata, "x-rate-limit-remaining"))
}

#[track_caller]
fn assert_no_quota(metadata: &MetadataMap) {
    for name in ["x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset"] {
        assert!(metadata.get(name).is_none(), "the quota was not checked, but there is {name}");
    }
}

/// Reads that a reader has used of the current window.
pub(crate) async fn reads_used(redis: &Redis, reader: u64) -> Option<u64> {
    redis.run(&format!("GET markread:read_quota:{reader}")).await
}
