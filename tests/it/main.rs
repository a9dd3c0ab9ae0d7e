//! End to end: real processes of `markread`, a real Redis each, real clients over the wire.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and says where"
)]

mod acks;
mod addresses;
mod admin;
mod answers;
mod bad_input;
mod bad_inputs;
mod bounds;
mod bounds_edge;
mod clients;
mod command_line;
mod consumer;
mod docs;
mod drain;
mod examples;
mod faults;
mod h2spec;
mod harness;
mod http_edge;
mod identity;
mod limits;
mod logs;
mod mark_read;
mod openapi;
mod operations;
mod permissions;
mod placement;
mod rare_marks;
mod read_side;
mod reader_bounds;
mod redis_access;
mod redis_stats;
mod relay;
mod relay_store;
mod rolling_upgrade;
mod rooms;
mod sentinel;
mod stores;
mod stream_bound;
mod threat_model;
mod traces;
mod twins;
mod users;
mod webhook;
mod worker_threads;
