//! Read state for direct messages, as a service: the semantics of Twitter's v1.1
//! `POST direct_messages/mark_read.json` over gRPC, on Redis.
//!
//! For Rust services there is [`client`], with the messages in [`proto`]. The rest is the server, whose
//! rooms are these, from the top; each imports only rooms below it:
//!
//! ```text
//! cli                    flags, serve, the other commands; uses client
//! edge  ops              the front door: gRPC and HTTP; health and the operators' pages
//! service  relay         the one place that decides, watches; webhooks
//! identity  store        authentication; cursors, quotas and events, in Redis or in memory
//! net                    connections, TLS
//! telemetry              logs, spans, metrics
//! files                  files that flags name
//! domain                 IDs, marks and their rule, quotas, events, refusals
//! proto                  the wire: generated code, names of RPCs and codes
//! ```
//!
//! `ARCHITECTURE.md` has the way of a call through them.

pub mod client;
#[doc(hidden)]
pub mod domain;
pub mod proto;

#[cfg(feature = "server")]
mod chance;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod edge;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod files;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod identity;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod net;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod ops;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod relay;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod service;
#[cfg(all(test, feature = "server"))]
mod simulation;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod store;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod telemetry;

pub use domain::{InvalidId, MAX_ID, MessageId, UserId};
