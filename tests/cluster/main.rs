//! Real clusters under load: what is acknowledged, published and served while slots move and masters are
//! killed, cut off or frozen, and what a server says of a cluster that it cannot serve.
//!
//! `cargo test --test cluster -- --test-threads=1`: limits of time hold for one test at a time. The nodes are
//! of the program that `MARKREAD_TEST_REDIS_SERVER` names; the accounts are printed with `--nocapture`.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics, and prints its accounts"
)]

mod access;
mod accounts;
mod bad_input;
mod crowd;
mod hangs;
mod identity;
mod kills;
mod nodes;
mod reads;
mod resharding;
mod spread;
mod tls;
mod watches;

/// The number of partitions, as is the default.
const PARTITIONS: u16 = 64;

/// Readers begin here; the IDs are like snowflakes, whose low bits are not uniform.
fn reader(number: u64) -> u64 {
    (1_000_000 + number) << 22
}

/// The readers of the first few numbers by their partitions: at least one in each.
fn one_reader_each() -> Vec<u64> {
    let partition = |reader| markread_harness::cluster::partition_of(reader, PARTITIONS);
    let first = |wanted| (0..u64::MAX).map(reader).find(|&reader| partition(reader) == wanted);
    (0..usize::from(PARTITIONS)).map(|wanted| first(wanted).unwrap()).collect()
}
