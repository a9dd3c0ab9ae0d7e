//! The connection to Redis: where Redis is, and how the connection is kept.

pub(crate) mod address;
pub(crate) mod link;
