//! Facts about a request, which the edge passes to its methods as values.

use std::time::SystemTime;

use super::deadline::Deadline;
use super::routing::Route;
use crate::domain::UserId;
use crate::net::peer::Peer;
use crate::telemetry::Traceparent;

/// Facts about a request, from its connection and its head.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The other end of its connection.
    pub peer: Peer,
    /// Its route: target and protocol.
    pub route: Route,
    /// When its call ends.
    pub deadline: Deadline,
    /// The trace that is stored beside its events.
    pub traceparent: Option<Traceparent>,
}

/// An authenticated caller.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The caller, who is the reader.
    pub reader: UserId,
    /// When its token expires.
    pub expires_at: Option<SystemTime>,
}
