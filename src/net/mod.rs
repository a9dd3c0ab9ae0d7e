//! Connections: accepted, secured, bounded, drained.

pub mod body;
mod first_bytes;
pub mod lifecycle;
pub mod listener;
pub mod memory;
pub mod peer;
pub mod pressure;
pub mod tls;
