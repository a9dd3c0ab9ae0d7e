//! Script calls for marks of several partitions of a cluster's node.
//!
//! A call that declares its keys has those of one slot. Marks that come together are of many, and a call
//! for each costs Redis more. So one call has them all and declares none, where Redis allows that.

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};

use super::acks::{self, Way};
use super::group_commit::{Group, GroupCommit, Sent, all_closed_of};
use super::script_call::MarkReply;
use super::single_marks::are_traced;
use crate::store::StoreError;
use crate::store::redis::errors::{classify, lost_script, server_text, unexpected};
use crate::store::redis::parts::NodeParts;

/// Reads of two slots in one script.
const TRY: &str = "return redis.call('EXISTS', ARGV[1]) + redis.call('EXISTS', ARGV[2])";

/// What a Redis answers that runs no scripts over several slots.
const REFUSALS: [&str; 3] = ["CROSSSLOT", "do not hash to the same slot", "undeclared"];

/// Finds out whether a node runs scripts over slots that they do not declare; `None` if it does not have two
/// partitions, or does not say.
pub(crate) async fn are_allowed(
    parts: &NodeParts,
    connection: &mut MultiplexedConnection,
) -> Option<Result<(), String>> {
    let served = parts.served.load_full();
    let [one, other, ..] = &served[..] else { return None };
    let mut tried = cmd("EVAL");
    tried.arg(TRY).arg(0).arg(one.keys.layout()).arg(other.keys.layout());
    match tried.query_async::<Value>(connection).await {
        Ok(_) => Some(Ok(())),
        Err(error) => {
            let text = server_text(&error).unwrap_or_default();
            // Anything else may pass: a slot on its way, a missing right.
            REFUSALS.iter().any(|refusal| text.contains(refusal)).then_some(Err(text))
        }
    }
}

impl GroupCommit {
    /// Sends the marks of several partitions in one call.
    pub(super) async fn send_across_slots(&self, mut groups: Vec<Group>) {
        let replies = {
            let (shared, mut replies): (Vec<_>, Vec<_>) =
                groups.iter_mut().map(|group| (&group.sent, &mut group.replies)).unzip();
            let call = self.run_across_slots(&shared);
            tokio::select! {
                biased;
                replies = call => replies,
                () = all_closed_of(&mut replies) => return,
            }
        };
        let replies = replies.unwrap_or_else(|failed| {
            let failed = |group: &Group| MarkReply::failed(group.sent.marks.len(), &failed);
            groups.iter().map(failed).collect()
        });
        join_all(groups.into_iter().zip(replies).map(|(group, reply)| self.answer(group, reply)))
            .await;
    }

    async fn run_across_slots(&self, groups: &[&Sent]) -> Result<Vec<MarkReply>, StoreError> {
        let traced = groups.iter().any(|sent| are_traced(&sent.marks));
        let marks = groups.iter().map(|sent| sent.marks.len()).sum();
        let bytes = groups.iter().map(|sent| sent.users.bytes()).sum();
        let started = self.script.start_across_slots(traced, (marks, bytes));
        let (script, by_digest) = started.ok_or_else(StoreError::missing_result)?;
        let fill = |mut call: redis::Cmd| {
            call.arg(0);
            for sent in groups {
                let partition = self.partition_of(&sent.marks)?;
                let places = (&partition.keys, &*partition.layout.placement());
                let (marks, users) = (&sent.marks, &sent.users);
                call = self.script.add_across_slots(traced, call, places, marks, users);
            }
            Ok::<_, StoreError>(call)
        };
        let reply = match acks::send(&self.parts, Way::Plain, fill(by_digest)?).await? {
            Err(error) if lost_script(&error) => {
                acks::send(&self.parts, Way::Plain, fill(script.by_source())?).await?
            }
            sent => sent,
        };
        let (reply, missing) = reply.map_err(|error| script.locate(classify(error)))?;
        let Value::Array(of_partitions) = &reply else { return Err(unexpected(&reply)) };
        if of_partitions.len() != groups.len() {
            return Err(unexpected(&reply));
        }
        let parsed = groups.iter().zip(of_partitions).map(|(sent, reply)| {
            let mut reply = self.script.parse(&sent.marks, reply)?;
            reply.note_missing_ack(missing);
            Ok(reply)
        });
        parsed.collect()
    }
}
