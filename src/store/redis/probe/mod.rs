//! What each probe asks Redis: whether calls would be served, and data for operators.

pub(crate) mod durability;
mod fsync;
pub(crate) mod permissions;
mod replicas;
pub(crate) mod stats;
mod stream_size;
pub(crate) mod totals;

/// Settings that may lose data, one sentence each.
pub(crate) type Warnings = Vec<&'static str>;
