//! Read state for direct messages, as a service: the semantics of Twitter's v1.1
//! `POST direct_messages/mark_read.json` over gRPC, on Redis.
//!
//! A call's way is straight:
//!
//! ```text
//! bytes → listener → edge (edge guard, routing, identity) → grpc or http → service → store → reply
//! ```
//!
//! Where to read on, in this order:
//!
//! - [`mark_read`]: the command, its outcomes, the rule that a cursor only moves forward;
//!   [`ids`], [`event`] and [`users`] are its words, [`read_state`] its read side.
//! - [`grpc`] and [`http`]: wire types into a command, an outcome back. [`proto`] is generated.
//! - [`service`]: the one place that decides; [`store`]: the two that remember; [`watch`]: who is told
//!   of events.
//! - [`edge`], [`routing`], [`edge_guard`], [`identity`], [`deadline`]: what a call passes before.
//! - [`status`]: every way a call is refused, and what the caller is told.
//! - [`listener`], [`tls`], [`handshake`], [`peer`], [`lifecycle`], [`until_drain`]: connections, and
//!   how they end. [`files`] and [`reread`]: files that flags name, and that change.
//! - [`health`], [`ops`], [`metrics`], [`telemetry`]: what an operator sees.
//! - [`config`], [`serve`]: settings, and how everything is put together. [`client`]: the other side.
//!
//! `ARCHITECTURE.md` has the map with its reasons.

pub mod cli;
pub mod client;
pub mod domain;
pub mod edge;
pub mod files;
pub mod identity;
pub mod net;
pub mod ops;
pub mod proto;
pub mod service;
pub mod store;
pub mod telemetry;
