//! Script calls that wait for replicas.

use std::io;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value, pipe};
use tokio::time::timeout;

use crate::store::redis::connection::link::Link;
use crate::store::redis::settings::ReplicasAck;

/// How long a call with a WAIT is in flight without an answer, besides those before it. On a connection that
/// hangs, and was replaced, none comes, and the calls on it must not keep others from being sent.
pub(super) const UNANSWERED_MAX: Duration = Duration::from_secs(60);

/// Acknowledgement by replicas of what a script call wrote.
#[derive(Clone, Copy)]
pub(crate) struct Replicas {
    pub(super) enough: bool,
}

/// How a script call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    /// To a node to which the slot is on its way: after `ASKING`, in the same write.
    Asking,
}

/// Sends a script call, and then waits for replicas if `--replicas-ack` is set.
pub(super) async fn send(
    ack: Option<ReplicasAck>,
    link: &Link,
    way: Way,
    call: Cmd,
) -> RedisResult<(Value, Replicas)> {
    match ack {
        Some(ack) => send_and_wait(link, way, call, ack).await,
        None if way == Way::Asking => {
            let (reply,) = asking(call).query_async(&mut link.connection()).await?;
            Ok((reply, Replicas { enough: true }))
        }
        None => Ok((call.query_async(&mut link.connection()).await?, Replicas { enough: true })),
    }
}

/// Sends a script call and WAIT on the same connection: WAIT looks at the connection's last write,
/// and blocks what follows it. So only a few are in flight, each until Redis has answered, even if
/// its caller has given up. The others queue here, where a mark whose caller gives up is never
/// sent.
async fn send_and_wait(
    link: &Link,
    way: Way,
    call: Cmd,
    ack: ReplicasAck,
) -> RedisResult<(Value, Replicas)> {
    let permit = link.waits_in_flight().acquire_owned().await;
    let mut connection = link.connection();
    let timeout_ms = u64::try_from(ack.timeout.as_millis()).unwrap_or(u64::MAX);
    let mut calls = match way {
        Way::Plain => pipe(),
        Way::Asking => start_asking(),
    };
    calls.add_command(call).cmd("WAIT").arg(ack.replicas).arg(timeout_ms).ignore_errors();
    let sent = tokio::spawn(async move {
        let replies = calls.query_async::<Vec<RedisResult<Value>>>(&mut connection);
        let replies = timeout(UNANSWERED_MAX + ack.queue_time_max(), replies).await;
        drop(permit);
        replies
    });
    let replies = sent.await.map_err(|error| io::Error::other(error.to_string()))?;
    let replies = replies.map_err(|late| io::Error::other(late.to_string()))??;
    let [reply, acknowledged] =
        <[_; 2]>::try_from(replies).unwrap_or_else(|_| [Ok(Value::Nil), Ok(Value::Nil)]);
    // An error of WAIT, as by a master that was just demoted, means too few.
    let needed = i64::from(ack.replicas);
    let enough = matches!(acknowledged, Ok(Value::Int(count)) if count >= needed);
    Ok((reply?, Replicas { enough }))
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
