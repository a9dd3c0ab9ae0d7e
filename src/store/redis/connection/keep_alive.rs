//! Commands on the connections that may be idle.

use redis::{RedisResult, Value, cmd};
use tokio::task::JoinSet;

use super::Connections;
use super::link::Role;

/// Successful probes during which a connection does not answer, before it is replaced: it hangs, and not
/// Redis. The one for the tail answers after its `XREAD`, which blocks for up to a second.
const PROBES_BEFORE_REPLACEMENT: u32 = 3;

/// Commands that keep the connections for calls and for the tail open while they are idle, and find one
/// that hangs. Probes do that for their own.
#[derive(Default)]
pub(super) struct KeepAlive {
    calls: Liveness,
    tail: Liveness,
}

/// Whether one connection answers.
#[derive(Default)]
struct Liveness {
    /// The command that waits for its answer.
    asked: JoinSet<()>,
    /// Successful probes in the meantime.
    probes: u32,
}

impl KeepAlive {
    /// Sends a command on each connection that has answered the last one.
    pub(super) fn ask(&mut self, connections: &Connections) {
        for (role, liveness) in self.each() {
            liveness.collect();
            if !liveness.asked.is_empty() {
                continue;
            }
            let Some(mut connection) = connections.living(role) else { continue };
            liveness.asked.spawn(async move {
                // TIME, since the documented ACL does not allow PING. An error is an answer too, and a
                // lost connection is noticed by itself.
                let _: RedisResult<Value> = cmd("TIME").query_async(&mut connection).await;
            });
        }
    }

    /// Notes that a probe succeeded, and that connections are lost which did not answer during several.
    pub(super) fn note_probe(&mut self, connections: &Connections) {
        for (role, liveness) in self.each() {
            liveness.collect();
            if liveness.asked.is_empty() {
                continue;
            }
            liveness.probes += 1;
            if liveness.probes >= PROBES_BEFORE_REPLACEMENT {
                *liveness = Liveness::default();
                connections.note_loss(role);
            }
        }
    }

    fn each(&mut self) -> [(Role, &mut Liveness); 2] {
        [(Role::Calls, &mut self.calls), (Role::Tail, &mut self.tail)]
    }
}

impl Liveness {
    fn collect(&mut self) {
        while self.asked.try_join_next().is_some() {
            self.probes = 0;
        }
    }
}
