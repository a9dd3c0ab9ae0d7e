//! Puts cursors into the destination of a move, several script calls at once.

use std::collections::VecDeque;

use tokio::task::JoinHandle;

use crate::domain::CursorRecord;
use crate::store::redis::admin::AdminError;
use crate::store::redis::admin::put::{PutOutcome, PutReply, PutRule};
use crate::store::redis::admin::store::StoreAdmin;

/// Cursors that one script call puts, in 1.5 ms.
const RECORDS_PER_CALL: usize = 128;

/// Script calls under way: while the destination works on one, the next ones arrive.
const CALLS_AT_ONCE: usize = 4;

/// What became of cursors that were put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PutCounts {
    /// Those that were not there, or were behind.
    pub(super) advanced: u64,
    /// Those that were there, or ahead.
    pub(super) present: u64,
    /// Those that could not be put.
    pub(super) failed: u64,
}

/// Puts cursors into a store.
pub(super) struct Putter {
    to: StoreAdmin,
    /// Cursors that wait for others of their partition.
    waiting: Vec<Vec<CursorRecord>>,
    calls: VecDeque<Call>,
    counts: PutCounts,
    problems: Vec<String>,
}

/// A call that is under way, and comes back with its cursors.
type Call = JoinHandle<(Vec<CursorRecord>, Result<PutReply, AdminError>)>;

impl Putter {
    pub(super) fn new(to: StoreAdmin) -> Self {
        let waiting = vec![Vec::new(); to.partitions.len()];
        let (counts, problems) = Default::default();
        Self { to, waiting, calls: VecDeque::new(), counts, problems }
    }

    /// Puts cursors, none of which moves backwards. Those of the last calls may still be under way.
    pub(super) async fn put(&mut self, records: &[CursorRecord]) -> Result<(), AdminError> {
        for record in records {
            let partition = self.to.partition_of(record.conversation.reader);
            let Some(waiting) = self.waiting.get_mut(partition) else { continue };
            waiting.push(*record);
            if waiting.len() >= RECORDS_PER_CALL {
                self.call(partition).await?;
            }
        }
        Ok(())
    }

    /// Waits until everything is there. Returns what became of it since the last time.
    pub(super) async fn flush(&mut self) -> Result<PutCounts, AdminError> {
        for partition in 0..self.waiting.len() {
            self.call(partition).await?;
        }
        while !self.calls.is_empty() {
            self.finish_first().await?;
        }
        Ok(std::mem::take(&mut self.counts))
    }

    /// Returns what is wrong with cursors that could not be put.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    async fn call(&mut self, partition: usize) -> Result<(), AdminError> {
        let Some(waiting) = self.waiting.get_mut(partition).filter(|waiting| !waiting.is_empty())
        else {
            return Ok(());
        };
        let records = std::mem::take(waiting);
        if self.calls.len() >= CALLS_AT_ONCE {
            self.finish_first().await?;
        }
        let Some(admin) = self.to.partitions.get(partition) else { return Ok(()) };
        let mut admin = admin.clone();
        self.calls.push_back(tokio::spawn(async move {
            let reply = admin.put(&records, PutRule::Forward).await;
            (records, reply)
        }));
        Ok(())
    }

    async fn finish_first(&mut self) -> Result<(), AdminError> {
        let Some(call) = self.calls.front_mut() else { return Ok(()) };
        let done = call.await;
        self.calls.pop_front();
        let (records, reply) =
            done.map_err(|error| AdminError::Failed(format!("a call has failed: {error}")))?;
        let reply = reply.map_err(AdminError::at_destination)?;
        for (record, outcome) in records.iter().zip(reply.outcomes) {
            match outcome {
                Ok(PutOutcome::Advanced { .. }) => self.counts.advanced += 1,
                Ok(PutOutcome::Unchanged | PutOutcome::Behind { .. }) => self.counts.present += 1,
                Err(problem) => {
                    self.counts.failed += 1;
                    let reader = record.conversation.reader;
                    self.problems.push(format!("a cursor of {reader} cannot be put: {problem}"));
                }
            }
        }
        Ok(())
    }
}
