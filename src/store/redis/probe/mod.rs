//! Data that each probe collects for operators.

mod durability;
pub(crate) mod stats;
mod stream_size;

/// Settings that may lose data, one sentence each.
pub(crate) type Warnings = Vec<&'static str>;
