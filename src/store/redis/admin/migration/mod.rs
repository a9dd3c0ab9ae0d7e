//! Moves all cursors to another store while this one is served: `markread admin move`.
//!
//! The end of each stream of events is noted, and then all cursors are copied by SCAN. What advances
//! meanwhile is in the streams after the noted places, which are followed at the same time. Each cursor that
//! arrives is put like a mark: it never moves backwards, so that copies, events and repeats may come in any
//! order. If a stream is trimmed before it was followed, everything is copied again from a new place.
//!
//! To finish, the old servers are shut out ([`freeze`]), and the rest of the streams is followed. Then all
//! cursors of the old store are put once more, which finds those that are missing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use self::finish::MoveSummary;

use self::follower::{FollowedEvents, Follower};
use self::putter::{PutCounts, Putter};
use self::state::{MoveState, Scan};
use super::AdminError;
use super::cursors::{CursorAdmin, READERS_AT_ONCE};
use super::store::{Node, StoreAdmin};
use crate::domain::{CursorRecord, UserId};
use crate::store::redis::connection::layout::LayoutMismatch;
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::keys::Keys;

mod durable;
mod finish;
mod follower;
mod freeze;
mod putter;
mod state;

/// Time between two looks at the streams, while cursors are copied and afterwards.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Reads of a stream in one turn, so that copying goes on beside many marks.
const READS_PER_TURN: usize = 50;

/// Time between two notes of how far a move has come, which an interrupted one repeats.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often everything is copied again, since streams are trimmed faster than it is copied.
const COPIES_MAX: u32 = 5;

/// Why everything is copied again.
const TRIMMED: &str = "entries of the stream were removed before they were read";
const SLOTS_MOVED: &str = "slots of the cluster were moved";
const NODE_LOST: &str = "a node of the cluster was lost";

/// Time before everything is copied again after a node was lost.
const LOST_NODE_PAUSE: Duration = Duration::from_secs(2);

/// Problems that are named.
const PROBLEMS_NAMED: u64 = 10;

/// A move of all cursors to another store.
pub struct Migration {
    source: StoreAdmin,
    /// The keys of each partition of the source, with the stream to follow.
    keys: Vec<Keys>,
    to: StoreAdmin,
    putter: Putter,
    scans: Vec<Scan>,
    /// Whether the nodes of the source had the same partitions when all was copied as when that began.
    is_settled: bool,
    followers: Vec<Follower>,
    source_id: String,
    to_id: String,
    copies: u32,
    progress: MoveProgress,
    saved_at: Instant,
    followed_at: Instant,
}

/// How far a move is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveGoal {
    /// Until all cursors are copied.
    Copy,
    /// What advances afterwards too, until it is interrupted.
    Follow,
    /// The end of the source's service.
    Finish,
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// Cursors that were read at the source by this command.
    pub cursors: u64,
    /// Their readers.
    pub readers: u64,
    /// Cursors, and readers whose cursors cannot be read, that were not copied.
    pub failed: u64,
    /// Entries of the streams that were followed.
    pub entries: u64,
}

/// What a move has to say.
#[derive(Debug)]
pub enum MoveReport<'a> {
    /// How far it has come. `scans` is the position of each SCAN; `None`: it is done.
    Progress {
        /// Counts.
        progress: MoveProgress,
        /// The position of the SCAN of each Redis process; `None`: it is done.
        scans: &'a [Option<u64>],
    },
    /// From now on the servers of the source are shut out.
    ShutOut,
    /// A line for the operator.
    Line(String),
}

/// Takes what a move has to say.
pub(super) type Report<'a> = &'a mut (dyn for<'r> FnMut(MoveReport<'r>) + Send);

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Migration {
    /// Connects to both stores, and goes on where an earlier move was interrupted. The destination gets a
    /// layout if it has none.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was moved.
    pub async fn connect(
        from: &RedisMode,
        stream: &str,
        to: &RedisMode,
        goal: MoveGoal,
        report: Report<'_>,
    ) -> Result<Self, AdminError> {
        let mut source = StoreAdmin::connect_to_move(from, stream).await?;
        let is_moved = source.partitions.iter().any(CursorAdmin::is_moved);
        if is_moved {
            if goal != MoveGoal::Finish {
                return Err(AdminError::Layout(LayoutMismatch::Moved));
            }
            report(MoveReport::ShutOut);
        }
        let (mut to, warnings) =
            StoreAdmin::connect_destination(to).await.map_err(AdminError::at_destination)?;
        if source.shares_a_node_with(&to) {
            return Err(AdminError::Failed(
                "--to is the Redis of --redis-url: it must be another one".to_owned(),
            ));
        }
        let to_id = to.first()?.identify().await.map_err(AdminError::of_destination)?;
        for partition in &mut source.partitions {
            partition.check_earlier_move(Some(&to_id)).await?;
        }
        if goal == MoveGoal::Finish {
            for partition in &mut source.partitions {
                partition.check_may_close().await?;
            }
        }
        if !is_moved {
            Self::check_streams(&mut source).await?;
        }
        let source_id = source.first()?.identify().await?;
        let state = MoveState::load(to.first()?).await.map_err(AdminError::of_destination)?;
        let state = state.filter(|state| state.source == source_id);
        if state.is_none() && to.has_cursors().await.map_err(AdminError::at_destination)? {
            return Err(AdminError::Failed(
                "the destination has cursors that are not of a move from this Redis: --to must be a \
                 Redis without cursors"
                    .to_owned(),
            ));
        }
        let keys =
            source.partitions.iter().map(|partition| partition.shared.keys.clone()).collect();
        for warning in warnings {
            report(MoveReport::Line(format!("the destination: {warning}")));
        }
        let now = Instant::now();
        let mut migration = Self {
            scans: vec![Scan::At(0); source.nodes.len()],
            is_settled: false,
            putter: Putter::new(to.clone()),
            source,
            keys,
            to,
            followers: Vec::new(),
            source_id,
            to_id,
            copies: 0,
            progress: MoveProgress::default(),
            saved_at: now,
            followed_at: now,
        };
        if is_moved {
            // It was interrupted while it was finished.
            migration.shut_servers_out().await?;
            migration.close_streams().await?;
        }
        if !state.is_some_and(|state| migration.resume(&state)) {
            migration.begin().await?;
            return Ok(migration);
        }
        report(MoveReport::Line("going on where the move was interrupted".to_owned()));
        Ok(migration)
    }

    /// Checks that what advances is noted in the streams of the given name. Without any, a name that was
    /// forgotten cannot be told from a store in which nobody has marked.
    async fn check_streams(source: &mut StoreAdmin) -> Result<(), AdminError> {
        let mut is_there = false;
        for partition in &mut source.partitions {
            is_there |= partition.check_stream().await?;
        }
        if is_there || !source.has_cursors().await? {
            return Ok(());
        }
        let stream = source.first()?.shared.keys.stream().to_owned();
        Err(AdminError::Failed(format!(
            "--stream {stream} is not there: the servers' --stream must be given. If nobody has ever marked \
             here, start serve and mark once"
        )))
    }

    /// Returns whether the cursors were moved already, or a move was interrupted while it was finished.
    pub(super) fn is_moved(&self) -> bool {
        self.source.partitions.iter().any(CursorAdmin::is_moved)
    }

    /// Copies all cursors, and follows what advances meanwhile, until everything is there.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; the same move, begun again, goes on.
    pub async fn copy(&mut self, report: Report<'_>) -> Result<MoveProgress, AdminError> {
        loop {
            if let Some(node) = self.scans.iter().position(|scan| *scan != Scan::Done) {
                self.copy_step(node, report).await?;
            } else if !self.is_settled {
                // Keys of a slot that went from one node to another may be on neither's list.
                if self.source.settle().await? {
                    self.copy_again(SLOTS_MOVED, report).await?;
                } else {
                    self.is_settled = true;
                }
            } else if !self.follow(report).await? {
                break;
            }
        }
        self.copies = 0;
        self.save().await?;
        Ok(self.progress)
    }

    /// Follows what advances, until it is dropped.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn follow_on(&mut self, report: Report<'_>) -> Result<(), AdminError> {
        loop {
            self.copy(report).await?;
            sleep(FOLLOW_INTERVAL).await;
        }
    }

    /// Notes the ends of the streams, from which everything is to be followed that is not copied.
    async fn begin(&mut self) -> Result<(), AdminError> {
        self.source.settle().await?;
        self.is_settled = false;
        (self.progress.cursors, self.progress.readers) = (0, 0);
        self.followers.clear();
        for (partition, keys) in self.source.partitions.iter_mut().zip(&self.keys) {
            self.followers.push(Follower::at_end(partition, keys).await?);
        }
        self.scans = vec![Scan::At(0); self.source.nodes.len()];
        self.save_now().await
    }

    /// Takes over what an earlier command noted. Returns whether that is complete.
    fn resume(&mut self, state: &MoveState) -> bool {
        let partitions = 0..self.source.partitions.len();
        let followers = partitions.map(|partition| state.followers.get(&partition).copied());
        let Some(followers) = followers.collect() else { return false };
        self.followers = followers;
        let is_same = state.owners == self.source.owners();
        let known = |run_id: &String| state.scans.get(run_id).copied().filter(|_| is_same);
        let scan = |node: &Node| known(&node.run_id).unwrap_or(Scan::At(0));
        self.scans = self.source.nodes.iter().map(scan).collect();
        true
    }

    /// Copies the readers of one step of SCAN.
    async fn copy_step(&mut self, node: usize, report: Report<'_>) -> Result<(), AdminError> {
        let Some(Scan::At(from)) = self.scans.get(node).copied() else { return Ok(()) };
        let (found, next) = match self.source.readers_of_node(node, from).await {
            Ok(step) => step,
            Err(error) if self.source.may_have_changed(&error) => {
                sleep(LOST_NODE_PAUSE).await;
                return self.copy_again(&format!("{NODE_LOST}: {error}"), report).await;
            }
            Err(error) => return Err(error.into()),
        };
        for (partition, readers) in found {
            for readers in readers.chunks(READERS_AT_ONCE) {
                self.copy_readers(partition, readers, report).await?;
                let copies = self.copies;
                if self.followed_at.elapsed() >= FOLLOW_INTERVAL {
                    self.follow(report).await?;
                }
                if self.copies != copies {
                    // The scan has begun again.
                    return Ok(());
                }
                self.report(report);
            }
        }
        self.flush(report).await?;
        if let Some(scan) = self.scans.get_mut(node) {
            *scan = if next == 0 { Scan::Done } else { Scan::At(next) };
        }
        if next == 0 && self.progress.failed == 0 {
            return self.save_now().await;
        }
        self.save().await
    }

    async fn copy_readers(
        &mut self,
        partition: usize,
        readers: &[UserId],
        report: Report<'_>,
    ) -> Result<(), AdminError> {
        let Self { source, putter, progress, .. } = self;
        let Some(admin) = source.partitions.get_mut(partition) else { return Ok(()) };
        let write = async |records: &[CursorRecord]| {
            progress.cursors += u64::try_from(records.len()).unwrap_or(u64::MAX);
            putter.put(records).await
        };
        let problems = admin.read_all(readers, write).await?;
        progress.readers += u64::try_from(readers.len()).unwrap_or(u64::MAX);
        for problem in problems {
            let (reader, problem) = (problem.reader, problem.problem);
            self.note_problem(format!("the cursors of {reader} cannot be read: {problem}"), report);
        }
        Ok(())
    }

    /// Follows the streams for a while. Returns whether there may be more, or everything has to be copied
    /// again.
    async fn follow(&mut self, report: Report<'_>) -> Result<bool, AdminError> {
        self.followed_at = Instant::now();
        let mut more_left = false;
        for index in 0..self.followers.len() {
            for turn in 1.. {
                let (Some(partition), Some(keys), Some(follower)) = (
                    self.source.partitions.get_mut(index),
                    self.keys.get(index),
                    self.followers.get_mut(index),
                ) else {
                    break;
                };
                let FollowedEvents { records, entries, more, lost } =
                    follower.read(partition, keys).await?;
                if lost {
                    self.copy_again(TRIMMED, report).await?;
                    return Ok(true);
                }
                self.progress.entries += entries;
                self.putter.put(&records).await?;
                more_left |= more && turn == READS_PER_TURN;
                if !more || turn == READS_PER_TURN {
                    break;
                }
            }
        }
        self.flush(report).await?;
        self.report(report);
        self.save().await?;
        Ok(more_left)
    }

    async fn copy_again(&mut self, cause: &str, report: Report<'_>) -> Result<(), AdminError> {
        self.copies += 1;
        if self.copies >= COPIES_MAX {
            let what = match cause {
                TRIMMED => "let serve keep more of the stream (--stream-maxlen)",
                _ => "wait until the cluster stays as it is",
            };
            return Err(AdminError::Failed(format!(
                "{cause} once more: {what}, and run the command again"
            )));
        }
        report(MoveReport::Line(format!("{cause}: all cursors are copied again")));
        self.flush(report).await?;
        self.begin().await
    }

    /// Waits until everything is put that was read.
    async fn flush(&mut self, report: Report<'_>) -> Result<PutCounts, AdminError> {
        let counts = self.putter.flush().await?;
        for problem in self.putter.take_problems() {
            self.note_problem(problem, report);
        }
        Ok(counts)
    }

    fn note_problem(&mut self, problem: String, report: Report<'_>) {
        self.progress.failed += 1;
        if self.progress.failed <= PROBLEMS_NAMED {
            report(MoveReport::Line(problem));
        }
    }

    /// Notes how far this has come, once in a while. After a problem no more: the next command meets it
    /// again.
    async fn save(&mut self) -> Result<(), AdminError> {
        if self.saved_at.elapsed() < SAVE_INTERVAL || self.progress.failed > 0 {
            return Ok(());
        }
        self.save_now().await
    }

    async fn save_now(&mut self) -> Result<(), AdminError> {
        let run_ids = self.source.nodes.iter().map(|node| node.run_id.clone());
        let state = MoveState {
            source: self.source_id.clone(),
            owners: self.source.owners(),
            scans: run_ids.zip(self.scans.iter().copied()).collect(),
            followers: self.followers.iter().copied().enumerate().collect::<HashMap<_, _>>(),
        };
        state.save(self.to.first()?).await.map_err(AdminError::of_destination)?;
        self.saved_at = Instant::now();
        Ok(())
    }

    fn report(&self, report: Report<'_>) {
        let position = |scan: &Scan| match scan {
            Scan::At(position) => Some(*position),
            Scan::Done => None,
        };
        let scans: Vec<_> = self.scans.iter().map(position).collect();
        report(MoveReport::Progress { progress: self.progress, scans: &scans });
    }
}
