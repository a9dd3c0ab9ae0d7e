//! Connections: accepted, secured, bounded, drained.

mod first_bytes;
pub mod lifecycle;
pub mod listener;
pub mod peer;
pub mod pressure;
pub mod tls;
