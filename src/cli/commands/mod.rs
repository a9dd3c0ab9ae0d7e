//! Commands other than `serve`.

pub(super) mod admin;
pub(super) mod client;
pub(super) mod healthcheck;
pub(super) mod token;
