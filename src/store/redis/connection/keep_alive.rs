//! Commands on the connections that may be idle.

use redis::{RedisResult, Value, cmd};
use tokio::task::JoinSet;

use super::Connections;
use super::link::Role;
use crate::store::redis::settings::Ack;

/// Seconds, and so successful probes, during which a connection does not answer before it is replaced: it
/// hangs, and not Redis. The one for the tail answers after its `XREAD`, which blocks for up to a second.
const SILENT_MAX_PROBES: u32 = 3;

/// Commands that keep the connections for calls and for the tail open while they are idle, and find one
/// that hangs. Probes do that for their own.
pub(super) struct KeepAlive(Vec<(Role, Liveness)>);

/// Whether one connection answers.
struct Liveness {
    /// The command that waits for its answer.
    pending: JoinSet<()>,
    /// Successful probes in the meantime, and after how many the connection is replaced.
    probes: u32,
    max_probes: u32,
}

impl KeepAlive {
    /// Creates it for connections on which calls wait for this acknowledgement.
    pub(super) fn new(connections: &Connections, ack: Option<Ack>) -> Self {
        let blocked_seconds = ack.map_or(0, |ack| ack.blocked_max().as_secs().saturating_add(1));
        let blocked_probes = u32::try_from(blocked_seconds).unwrap_or(u32::MAX);
        let calls_max_probes = SILENT_MAX_PROBES.saturating_add(blocked_probes);
        let roles = connections.roles().filter(|role| *role != Role::Probes);
        let liveness = |role: Role| {
            let serves_calls = role.serves_calls();
            Liveness::new(if serves_calls { calls_max_probes } else { SILENT_MAX_PROBES })
        };
        Self(roles.map(|role| (role, liveness(role))).collect())
    }

    /// Sends a command on each connection that has answered the last one.
    pub(super) fn ask(&mut self, connections: &Connections) {
        for (role, liveness) in &mut self.0 {
            liveness.collect();
            if !liveness.pending.is_empty() {
                continue;
            }
            let Some(mut connection) = connections.living(*role) else { continue };
            liveness.pending.spawn(async move {
                // TIME, since the documented ACL does not allow PING. An error is an answer too, and a
                // lost connection is noticed by itself.
                let _: RedisResult<Value> = cmd("TIME").query_async(&mut connection).await;
            });
        }
    }

    /// Notes that a probe succeeded, and that connections are lost which did not answer during several.
    pub(super) fn note_probe(&mut self, connections: &Connections) {
        for (role, liveness) in &mut self.0 {
            liveness.collect();
            if liveness.pending.is_empty() {
                continue;
            }
            // The first probe comes right after the command was sent.
            liveness.probes += 1;
            if liveness.probes > liveness.max_probes {
                *liveness = Liveness::new(liveness.max_probes);
                connections.note_loss(*role);
            }
        }
    }
}

impl Liveness {
    fn new(max_probes: u32) -> Self {
        Self { pending: JoinSet::new(), probes: 0, max_probes }
    }

    fn collect(&mut self) {
        while self.pending.try_join_next().is_some() {
            self.probes = 0;
        }
    }
}
