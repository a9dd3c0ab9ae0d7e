//! What operators learn of Redis.

pub(crate) mod durability;
pub(crate) mod stats;
