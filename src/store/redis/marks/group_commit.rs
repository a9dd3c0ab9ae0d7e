//! Group commit: marks that wait at the same time share a script call.
//!
//! A mark that finds a slot free takes it and is sent at once. Marks that find none wait; when a slot
//! becomes free the next ones are sent together, in one call. So a mark that is alone is not delayed,
//! and under load the round trip, the start of the script and its reading of the clock are shared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::domain::{CALL_USER_OBJECTS_MAX_BYTES, Mark, Outcome, Users};
use crate::store::redis::errors::{classify, is_layout_change, lost_script};
use crate::store::redis::line::Line;
use crate::store::redis::marks::acks::{self, Way};
use crate::store::redis::marks::script_call::{MarkReadScript, MarkReply, MarkScript, TracedMark};
use crate::store::redis::partitions::{PartitionStore, Partitions};
use crate::store::redis::parts::NodeParts;
use crate::store::{MarkResult, StoreError};

/// Script calls in flight for single marks. With two, Redis idles while replies are handled. If they wait
/// for an acknowledgement, each connection for that has one.
const SLOTS: usize = 3;

/// Most marks of a group: Redis serves nobody else for the duration of its script call.
const GROUP_MAX_MARKS: usize = 64;

/// How often marks are sent again that were not run, since the layout had changed.
pub(crate) const LAYOUT_ATTEMPTS: usize = 3;

/// Sends one worker's marks to one node.
pub(crate) struct GroupCommit {
    pub(super) parts: NodeParts,
    pub(super) script: Arc<MarkReadScript>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    taken: usize,
    line: Line<QueuedMark>,
}

/// A mark that waits for a slot, with the user objects of its event.
struct QueuedMark {
    mark: TracedMark,
    users: Users,
    reply: Reply,
}

pub(super) type Reply = oneshot::Sender<MarkResult>;

/// Marks that share a script call.
#[derive(Default)]
pub(super) struct Group {
    pub(super) sent: Sent,
    pub(super) replies: Vec<Reply>,
}

/// Marks, and the user objects of their events.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) marks: Vec<TracedMark>,
    pub(super) users: Users,
}

/// The right to have a script call in flight, until it is dropped.
struct Slot(Arc<GroupCommit>);

impl GroupCommit {
    pub(crate) fn new(parts: NodeParts, script: Arc<MarkReadScript>) -> Self {
        Self { parts, script, slots: Mutex::default() }
    }

    /// Makes all marks go by the full script.
    pub(crate) fn use_full_script_only(&self) {
        self.script.use_full_only();
    }

    /// Makes each call have marks of one partition.
    pub(crate) fn use_declared_keys_only(&self) {
        self.script.use_declared_keys_only();
    }

    /// Sends one mark, in a script call of its own or with others.
    pub(crate) async fn mark(self: &Arc<Self>, mark: TracedMark, users: Users) -> MarkResult {
        match self.take_slot(mark, users) {
            // Boxed: under load most marks wait, and its future would enlarge every call's.
            Ok((slot, users)) => Box::pin(self.send_alone(slot, mark, users)).await,
            // The sender is dropped only when the process exits.
            Err(reply) => reply.await.unwrap_or_else(|gone| Err(StoreError::unavailable(gone))),
        }
    }

    async fn send_alone(&self, slot: Slot, mark: TracedMark, users: Users) -> MarkResult {
        let result =
            self.run_script(Way::Plain, &[mark], &users).await.map(|mut results| results.pop());
        drop(slot);
        result?.unwrap_or_else(|| Err(StoreError::missing_result()))
    }

    /// Sends marks of one partition in one script call, which applies them in order. Marks that are rare, or
    /// were not run since the layout had changed, are sent again.
    pub(crate) async fn run_script(
        &self,
        way: Way,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let MarkReply { mut results, rare } = self.run_first(way, marks, users).await?;
        if !rare.is_empty() {
            // Boxed: most marks are not rare, and its future would enlarge every call's.
            put(&mut results, &rare, Box::pin(self.run_rare(way, marks, users, &rare)).await);
        }
        Ok(results)
    }

    /// Sends marks to the script that they are for first.
    async fn run_first(
        &self,
        way: Way,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<MarkReply, StoreError> {
        self.run_current(way, self.script.choose(marks), marks, users).await
    }

    /// Runs this script by the layout's current version.
    async fn run_current(
        &self,
        way: Way,
        script: MarkScript,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<MarkReply, StoreError> {
        let reply = self.run_script_once(way, script, marks, users).await;
        if !has_changed_layout(&reply) {
            return reply;
        }
        // Boxed: a layout changes once in its life.
        Box::pin(self.run_again(way, script, marks, users, reply)).await
    }

    /// Sends marks that the script of single marks has not done to the full script, with their users.
    async fn run_rare(
        &self,
        way: Way,
        marks: &[TracedMark],
        users: &Users,
        rare: &[usize],
    ) -> Vec<MarkResult> {
        let marks: Vec<_> = rare.iter().filter_map(|n| marks.get(*n)).copied().collect();
        let plain: Vec<Mark> = marks.iter().map(|traced| traced.mark).collect();
        let users = users.of(&plain);
        // Perhaps the mark is rare since the count was stale. The reply has the count, if there is one.
        self.script.forget_buckets(&marks);
        let reply = self.run_current(way, MarkScript::Full, &marks, &users).await;
        reply.map_or_else(|failed| vec![Err(failed); marks.len()], |reply| reply.results)
    }

    async fn run_again(
        &self,
        way: Way,
        script: MarkScript,
        marks: &[TracedMark],
        users: &Users,
        reply: Result<MarkReply, StoreError>,
    ) -> Result<MarkReply, StoreError> {
        let mut results = match reply {
            Ok(reply) => reply.results,
            Err(all) => vec![Err(all); marks.len()],
        };
        for _ in 0..LAYOUT_ATTEMPTS {
            let open: Vec<usize> = (0..marks.len())
                .filter(|n| results.get(*n).is_some_and(is_layout_change))
                .collect();
            if open.is_empty() {
                break;
            }
            let again: Vec<TracedMark> =
                open.iter().filter_map(|n| marks.get(*n)).copied().collect();
            // Whatever fails now, the other marks keep their results: they may have been done.
            let answers = match self.run_by_new_layout(way, script, &again, users).await {
                Err(failed) => vec![Err(failed); open.len()],
                Ok(reply) => reply.results,
            };
            put(&mut results, &open, answers);
        }
        Ok(MarkReply { results, rare: Vec::new() })
    }

    /// Reads the layout again, and then runs this script once.
    async fn run_by_new_layout(
        &self,
        way: Way,
        script: MarkScript,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<MarkReply, StoreError> {
        let partition = self.partition_of(marks)?;
        let PartitionStore { layout, keys, .. } = &**partition;
        if layout.reread(&mut self.parts.connections.calls()?, keys).await? {
            self.parts.shared.note_absent_layout(partition);
        }
        self.run_script_once(way, script, marks, users).await
    }

    /// Returns the partition of marks that are all of one.
    pub(super) fn partition_of(
        &self,
        marks: &[TracedMark],
    ) -> Result<&Arc<PartitionStore>, StoreError> {
        let first = marks.first().ok_or_else(StoreError::missing_result)?;
        Ok(self.parts.shared.partitions.of(first.mark.reader))
    }

    async fn run_script_once(
        &self,
        way: Way,
        script: MarkScript,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<MarkReply, StoreError> {
        let shared = &self.parts.shared;
        let partition = self.partition_of(marks)?;
        let generation = shared.denials.generation();
        let sent_at = Instant::now();
        let text = self.script.script(script, marks);
        let placement = partition.layout.placement();
        let call = |call| {
            let places = (&partition.keys, &*placement);
            self.script.add_arguments(script, call, places, marks, users)
        };
        let by_digest = call(self.script.by_digest(script, marks, users));
        let reply = match acks::send(&self.parts, way, by_digest).await? {
            Err(error) if lost_script(&error) => {
                acks::send(&self.parts, way, call(text.by_source())).await?
            }
            sent => sent,
        };
        let (reply, missing_ack) = reply.map_err(|error| text.locate(classify(error)))?;
        let mut reply = self.script.parse(marks, &reply)?;
        for (TracedMark { mark, .. }, result) in marks.iter().zip(&reply.results) {
            if let Ok(Outcome::OverQuota { quota, retry_after }) = result {
                // Redis read its clock after this one: the denial ends a moment early.
                let until = sent_at.checked_add(*retry_after);
                shared.denials.insert(mark.reader, *quota, until, generation);
            }
        }
        reply.note_missing_ack(missing_ack);
        Ok(reply)
    }

    /// Takes a slot if one is free; otherwise queues the mark.
    fn take_slot(
        self: &Arc<Self>,
        mark: TracedMark,
        users: Users,
    ) -> Result<(Slot, Users), oneshot::Receiver<MarkResult>> {
        let mut slots = self.slots();
        if slots.taken < self.parts.shared.ack.map_or(SLOTS, |ack| ack.connections) {
            slots.taken += 1;
            return Ok((Slot(Arc::clone(self)), users));
        }
        let (reply, receiver) = oneshot::channel();
        slots.line.push(QueuedMark { mark, users, reply });
        Err(receiver)
    }

    /// Takes the next group from the line for a slot that became free, whose last call took so long. Frees the
    /// slot if no mark waits.
    fn next_group(&self, round_trip: Duration) -> Option<Group> {
        let mut slots = self.slots();
        let mut group = Group::default();
        let mut bytes = 0;
        while group.sent.marks.len() < GROUP_MAX_MARKS {
            let Some(next) = slots.line.peek() else { break };
            // A mark whose caller has given up is never sent.
            let is_wanted = !next.reply.is_closed();
            if is_wanted {
                bytes += next.users.bytes();
            }
            if bytes > CALL_USER_OBJECTS_MAX_BYTES {
                break;
            }
            let next = slots.line.pop().filter(|_| is_wanted);
            if let Some(QueuedMark { mark, users, reply }) = next {
                group.sent.marks.push(mark);
                group.sent.users.extend(users);
                group.replies.push(reply);
            }
        }
        let is_wanted = |mark: &QueuedMark| !mark.reply.is_closed();
        let refused = slots.line.take_refused(round_trip, is_wanted);
        let is_free = group.sent.marks.is_empty();
        slots.taken -= usize::from(is_free);
        drop(slots);
        for QueuedMark { reply, .. } in refused {
            let _ = reply.send(Err(StoreError::overloaded()));
        }
        (!is_free).then_some(group)
    }

    /// Uses a slot as long as marks wait.
    async fn run_slot(self: Arc<Self>) {
        let mut round_trip = Duration::ZERO;
        // A group is taken right before it is sent: so marks arrive in the order in which they came.
        while let Some(group) = self.next_group(round_trip) {
            let sent_at = Instant::now();
            self.send_group(group).await;
            round_trip = sent_at.elapsed();
            if self.slots().line.is_long() {
                self.note_delay().await;
            }
        }
    }

    /// Frees a slot if no mark waits. Returns whether it did.
    fn free_slot(&self) -> bool {
        let mut slots = self.slots();
        let is_free = slots.line.len() == 0;
        slots.taken -= usize::from(is_free);
        is_free
    }

    /// Measures how long a task that is ready waits until it runs.
    async fn note_delay(&self) {
        let ready_at = Instant::now();
        yield_now().await;
        self.slots().line.note_delay(ready_at.elapsed());
    }

    /// Sends the marks of a group: of one partition in one call; of several in one, where Redis allows that,
    /// or else in a call for each, all at the same time.
    async fn send_group(&self, group: Group) {
        let mut groups = group.by_partition(&self.parts.shared.partitions);
        if groups.len() > 1 && self.parts.may_share_slots() && self.script.may_cross_slots() {
            // Boxed: one Redis has one partition.
            Box::pin(self.send_across_slots(groups)).await;
        } else if groups.len() > 1 {
            join_all(groups.into_iter().map(|group| self.send_partition(group))).await;
        } else if let Some(only) = groups.pop() {
            self.send_partition(only).await;
        }
    }

    async fn send_partition(&self, mut group: Group) {
        let first = tokio::select! {
            biased;
            first = self.run_first(Way::Plain, &group.sent.marks, &group.sent.users) => first,
            // A hanging Redis does not hold the slot longer than any caller waits.
            () = all_closed(&mut group.replies) => return,
        };
        let marks = group.sent.marks.len();
        let reply = first.unwrap_or_else(|failed| MarkReply::failed(marks, &failed));
        self.answer(group, reply).await;
    }

    /// Answers the marks of one partition, and sends those that are rare once more.
    pub(super) async fn answer(&self, group: Group, reply: MarkReply) {
        let Group { sent: Sent { marks, users }, replies } = group;
        let MarkReply { results, rare } = reply;
        // What is done does not wait for what is rare.
        let (mut of_rare, mut open) = (rare.iter().peekable(), Vec::with_capacity(rare.len()));
        for (place, (reply, result)) in replies.into_iter().zip(results).enumerate() {
            if of_rare.next_if_eq(&&place).is_some() {
                open.push(reply);
            } else {
                let _ = reply.send(result);
            }
        }
        if open.is_empty() {
            return;
        }
        let results = tokio::select! {
            biased;
            results = Box::pin(self.run_rare(Way::Plain, &marks, &users, &rare)) => results,
            () = all_closed(&mut open) => return,
        };
        for (reply, result) in open.into_iter().zip(results) {
            let _ = reply.send(result);
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Splits a group by the partitions of its marks, in which they keep their order.
    fn by_partition(self, partitions: &Partitions) -> Vec<Self> {
        if partitions.all().len() == 1 {
            return vec![self];
        }
        let mut groups = BTreeMap::<usize, Self>::new();
        let Self { sent: Sent { marks, users }, replies } = self;
        for (mark, reply) in marks.into_iter().zip(replies) {
            let group = groups.entry(partitions.number_of(mark.mark.reader)).or_default();
            group.sent.users.extend(users.of(&[mark.mark]));
            group.sent.marks.push(mark);
            group.replies.push(reply);
        }
        groups.into_values().collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.0.free_slot()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(Arc::clone(&self.0).run_slot());
        }
    }
}

/// Returns whether some marks were not run, since the layout had changed.
fn has_changed_layout(reply: &Result<MarkReply, StoreError>) -> bool {
    match reply {
        Ok(reply) => reply.results.iter().any(is_layout_change),
        failed => is_layout_change(failed),
    }
}

/// Puts answers in these places.
fn put(results: &mut [MarkResult], places: &[usize], answers: Vec<MarkResult>) {
    for (n, answer) in places.iter().zip(answers) {
        if let Some(result) = results.get_mut(*n) {
            *result = answer;
        }
    }
}

/// The same, for several groups.
pub(super) async fn all_closed_of(groups: &mut [&mut Vec<Reply>]) {
    for replies in groups {
        all_closed(replies).await;
    }
}

/// Waits until no caller waits for any of these replies.
async fn all_closed(replies: &mut [Reply]) {
    for reply in replies {
        reply.closed().await;
    }
}

impl fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
