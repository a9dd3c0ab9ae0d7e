//! Script calls that wait for an acknowledgement.

use std::io;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value, pipe};
use tokio::time::timeout;

use crate::store::StoreError;
use crate::store::redis::connection::Connections;
use crate::store::redis::parts::NodeParts;
use crate::store::redis::settings::Ack;

/// How long a call is in flight without an answer, besides the time of its acknowledgement. On a connection
/// that hangs, and was replaced, none comes.
pub(super) const UNANSWERED_MAX: Duration = Duration::from_secs(60);

const TOO_FEW_REPLICAS: &str = "too few replicas acknowledged";
const NOT_ON_DISK: &str = "Redis has not confirmed that it is on its disk (WAITAOF)";

/// How a script call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    /// To a node to which the slot is on its way: after `ASKING`, in the same write.
    Asking,
}

/// Which acknowledgement is missing of what a script call wrote, if one is.
pub(super) type MissingAck = Option<&'static str>;

/// Sends a script call, and then waits for the acknowledgement that marks must have. The outer error is that
/// there is no connection.
pub(super) async fn send(
    parts: &NodeParts,
    way: Way,
    call: Cmd,
) -> Result<RedisResult<(Value, MissingAck)>, StoreError> {
    if let Some(ack) = parts.shared.ack {
        // Boxed: its future would enlarge every call's.
        return Box::pin(send_and_wait(&parts.connections, way, call, ack)).await;
    }
    let mut connection = parts.connections.calls()?;
    if way == Way::Asking {
        let reply = asking(call).query_async(&mut connection).await;
        return Ok(reply.map(|(reply,)| (reply, None)));
    }
    Ok(call.query_async(&mut connection).await.map(|reply| (reply, None)))
}

/// Sends a script call, WAIT and WAITAOF on the same connection, since these look at the connection's last
/// write. Even a mark that is a no-op writes, its reader's quota. The connection is blocked until Redis has
/// answered, even if the caller has given up.
async fn send_and_wait(
    connections: &Connections,
    way: Way,
    call: Cmd,
    ack: Ack,
) -> Result<RedisResult<(Value, MissingAck)>, StoreError> {
    let free = connections.free_for_ack().await?;
    let timeout_ms = u64::try_from(ack.timeout.as_millis()).unwrap_or(u64::MAX);
    let mut calls = match way {
        Way::Plain => pipe(),
        Way::Asking => start_asking(),
    };
    calls.add_command(call);
    if ack.replicas > 0 {
        calls.cmd("WAIT").arg(ack.replicas).arg(timeout_ms);
    }
    if ack.fsync {
        // Last: with `appendfsync always` it is on the disk by now.
        calls.cmd("WAITAOF").arg(1).arg(0).arg(timeout_ms);
    }
    calls.ignore_errors();
    let sent = tokio::spawn(async move {
        let mut connection = free.connection();
        let replies = calls.query_async::<Vec<RedisResult<Value>>>(&mut connection);
        let replies = timeout(UNANSWERED_MAX + ack.blocked_max(), replies).await;
        drop(free);
        replies
    });
    let replies = match sent.await {
        Ok(Ok(Ok(replies))) => replies,
        Ok(Ok(Err(failed))) => return Ok(Err(failed)),
        Ok(Err(late)) => return Ok(Err(io::Error::other(late.to_string()).into())),
        Err(panicked) => return Ok(Err(io::Error::other(panicked.to_string()).into())),
    };
    let mut replies = replies.into_iter();
    let reply = replies.next().unwrap_or(Ok(Value::Nil));
    let missing = ack.missing(&mut replies);
    Ok(reply.map(|reply| (reply, missing)))
}

fn start_asking() -> Pipeline {
    let mut calls = pipe();
    calls.cmd("ASKING").ignore();
    calls
}

/// Returns `ASKING` and a call, in one write.
pub(crate) fn asking(call: Cmd) -> Pipeline {
    let mut calls = start_asking();
    calls.add_command(call);
    calls
}

impl Ack {
    /// Returns what is missing by the replies to WAIT and WAITAOF. An error, as by a master that was just
    /// demoted, is not an acknowledgement.
    fn missing(&self, replies: &mut impl Iterator<Item = RedisResult<Value>>) -> MissingAck {
        if self.replicas > 0 {
            let needed = i64::from(self.replicas);
            let has_enough =
                matches!(replies.next(), Some(Ok(Value::Int(count))) if count >= needed);
            if !has_enough {
                return Some(TOO_FEW_REPLICAS);
            }
        }
        if self.fsync {
            let is_on_disk = match replies.next() {
                Some(Ok(Value::Array(counts))) => matches!(counts[..], [Value::Int(1), _]),
                _ => false,
            };
            if !is_on_disk {
                return Some(NOT_ON_DISK);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_acknowledgement_that_is_required_is_looked_at() {
        let of = |replicas, fsync| {
            let timeout = Duration::from_secs(1);
            Ack { replicas, fsync, timeout, connections: 1 }
        };
        let error = || Err(io::Error::other("UNBLOCKED force unblock").into());
        let wait = |count| Ok(Value::Int(count));
        let disk = |local| Ok(Value::Array(vec![Value::Int(local), Value::Int(0)]));
        let table: [(Ack, Vec<RedisResult<Value>>, MissingAck); 11] = [
            (of(1, false), vec![wait(1)], None),
            (of(2, false), vec![wait(3)], None),
            (of(2, false), vec![wait(1)], Some(TOO_FEW_REPLICAS)),
            (of(1, false), vec![error()], Some(TOO_FEW_REPLICAS)),
            (of(1, false), vec![], Some(TOO_FEW_REPLICAS)),
            (of(0, true), vec![disk(1)], None),
            (of(0, true), vec![disk(0)], Some(NOT_ON_DISK)),
            (of(0, true), vec![error()], Some(NOT_ON_DISK)),
            (of(1, true), vec![wait(1), disk(1)], None),
            (of(1, true), vec![wait(0), disk(1)], Some(TOO_FEW_REPLICAS)),
            (of(1, true), vec![wait(1), disk(0)], Some(NOT_ON_DISK)),
        ];
        for (ack, replies, missing) in table {
            let shown = format!("{ack:?} {replies:?}");
            assert_eq!(ack.missing(&mut replies.into_iter()), missing, "{shown}");
        }
    }
}
