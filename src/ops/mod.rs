//! For operators and probes: `grpc.health.v1.Health`, and the pages of the operators' port.

pub mod health;
pub mod pages;
pub mod port;
