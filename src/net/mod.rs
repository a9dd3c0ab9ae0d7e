//! Connections: accepted, secured, bounded, drained.

pub mod body;
mod cgroup;
pub mod cpus;
pub(crate) mod date;
mod first_bytes;
#[doc(hidden)]
pub mod fuzzing;
mod head_timeout;
mod http1;
mod http2;
pub mod lifecycle;
pub mod listener;
pub mod memory;
pub mod peer;
mod peers;
pub mod pressure;
mod send_timeout;
pub mod service;
pub mod stream_control;
pub mod tls;
pub mod workers;
