//! Commands that are clients of a server.

pub mod ask;
pub mod healthcheck;
