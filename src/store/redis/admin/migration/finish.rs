//! The end of a move: the old servers are shut out, the rest is copied, and everything is verified.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::durable::make_durable;
use super::state::Scan;
use super::{Migration, MoveProgress, MoveReport, Report};
use crate::store::redis::admin::AdminError;
use crate::store::redis::admin::cursors::READERS_AT_ONCE;
use crate::store::redis::admin::store::StoreAdmin;
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::keys::Keys;

/// Time without an event, after which the servers have noticed that the cursors are moved: they look once a
/// second, for at most a second.
const QUIET: Duration = Duration::from_secs(2);

/// Longest wait for that.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(10);

/// Verifications that may find cursors to put, and counts that may be too low.
const VERIFICATIONS_MAX: u32 = 3;

/// Time between two looks at the streams meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The result of a move.
#[derive(Clone, Copy, Debug)]
pub struct MoveSummary {
    /// Cursors of the source.
    pub cursors: u64,
    /// Their readers.
    pub readers: u64,
    /// Cursors of the destination, and their readers, when it was verified.
    pub at_destination: (u64, u64),
    /// Cursors that were missing at the destination, or behind, and have been put there.
    pub repaired: u64,
    /// From when the servers of the source were told that the cursors are moved until all were copied.
    pub without_service: Option<Duration>,
}

impl Migration {
    /// Shuts the servers of the source out, copies the rest, and verifies everything. A move that was
    /// interrupted meanwhile is finished the same way.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; the same move, finished again, goes on.
    pub async fn finish(&mut self, report: Report<'_>) -> Result<MoveSummary, AdminError> {
        let was_moved = self.is_moved();
        if !was_moved {
            self.copy(report).await?;
            self.verify_served(report).await?;
        }
        let began = Instant::now();
        if !was_moved {
            report(MoveReport::ShutOut);
            self.shut_servers_out().await?;
            self.wait_until_quiet(report).await?;
            self.close_streams().await?;
        }
        self.copy(report).await?;
        let without_service = began.elapsed();
        if self.progress.failed == 0 {
            let after = if was_moved {
                String::new()
            } else {
                format!(", after {:.1} s without service", without_service.as_secs_f64())
            };
            report(MoveReport::Line(format!(
                "everything is copied{after}: servers may be started at the destination. All cursors are \
                 verified once more: run the command again if that fails"
            )));
        }
        self.save_now().await?;
        if let Some(problem) = make_durable(&mut self.source.partitions).await? {
            report(MoveReport::Line(format!(
                "{problem}: stop the old servers before their Redis restarts or fails over, or they may \
                 mark there again"
            )));
        }
        let mut summary = self.verify(report).await?;
        summary.without_service = (!was_moved).then_some(without_service);
        Ok(summary)
    }

    /// Gives a store back to its servers after a move. Returns whether it was moved.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn undo(from: &RedisMode, stream: &str) -> Result<bool, AdminError> {
        let mut source = StoreAdmin::connect_to_move(from, stream).await?;
        for partition in &mut source.partitions {
            partition.check_earlier_move(None).await?;
        }
        let mut was_moved = false;
        for partition in &mut source.partitions {
            was_moved |= partition.reopen().await?;
        }
        Ok(was_moved)
    }

    /// Writes into the layout of the source that its cursors are moved.
    pub(super) async fn shut_servers_out(&mut self) -> Result<(), AdminError> {
        for partition in &mut self.source.partitions {
            partition.write_moved(&self.to_id).await?;
        }
        Ok(())
    }

    /// Closes the streams of the source, and follows what is in them.
    pub(super) async fn close_streams(&mut self) -> Result<(), AdminError> {
        for partition in &mut self.source.partitions {
            partition.close_stream().await?;
        }
        self.keys = self.keys.iter().map(Keys::with_moved_events).collect();
        Ok(())
    }

    /// Follows the streams until the servers have stopped to mark, so that they answer UNAVAILABLE when the
    /// streams are closed. If they do not, those marks will fail.
    async fn wait_until_quiet(&mut self, report: Report<'_>) -> Result<(), AdminError> {
        let began = Instant::now();
        let mut last_event = began;
        while last_event.elapsed() < QUIET {
            if began.elapsed() >= QUIET_WAIT_MAX {
                report(MoveReport::Line(
                    "servers of the source still mark: from now on their marks fail".to_owned(),
                ));
                return Ok(());
            }
            let entries = self.progress.entries;
            self.copy(report).await?;
            if self.progress.entries != entries {
                last_event = Instant::now();
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Copies all cursors once more while the source is served, and counts those of the destination: one that
    /// loses cursors is found before the servers are shut out.
    async fn verify_served(&mut self, report: Report<'_>) -> Result<(), AdminError> {
        if self.progress.failed == 0 {
            self.begin_count();
            self.scans = vec![Scan::At(0); self.source.nodes.len()];
            self.is_settled = false;
            self.copy(report).await?;
        }
        if self.progress.failed > 0 {
            let problem = "the move is not finished, since cursors cannot be copied: correct them, or \
                           remove them, and run the command again";
            return Err(AdminError::Failed(problem.to_owned()));
        }
        self.count_destination(report).await?;
        Ok(())
    }

    /// Puts all cursors of the source once more, until all are there, and counts those of both stores.
    async fn verify(&mut self, report: Report<'_>) -> Result<MoveSummary, AdminError> {
        let (mut repaired, mut repairs) = (0, 0);
        loop {
            self.begin_count();
            let put = self.put_all(report).await?;
            if self.progress.failed > 0 {
                return Err(AdminError::Failed(format!(
                    "{} of the cursors and readers of the source are not at the destination: correct \
                     them, and run the command again",
                    self.progress.failed
                )));
            }
            repaired += put;
            repairs += u32::from(put > 0);
            if repairs >= VERIFICATIONS_MAX {
                return Err(AdminError::Failed(format!(
                    "cursors were missing at the destination, or behind, at each of {repairs} \
                     verifications: it does not keep them"
                )));
            }
            if !self.source.settle().await? && put == 0 {
                break;
            }
        }
        let at_destination = self.count_destination(report).await?;
        let MoveProgress { cursors, readers, .. } = self.progress;
        Ok(MoveSummary { cursors, readers, at_destination, repaired, without_service: None })
    }

    fn begin_count(&mut self) {
        self.progress = MoveProgress { failed: self.progress.failed, ..MoveProgress::default() };
    }

    /// Counts the cursors of the destination, and their readers. There must be as many as were read at the
    /// source.
    async fn count_destination(&mut self, report: Report<'_>) -> Result<(u64, u64), AdminError> {
        let mut counts = 1;
        loop {
            let there = self.to.count().await.map_err(AdminError::at_destination)?;
            let cursors = self.progress.cursors;
            if there.0 >= cursors {
                return Ok(there);
            }
            if counts >= VERIFICATIONS_MAX {
                return Err(AdminError::Failed(format!(
                    "the destination has {} cursors and the source {cursors}: it does not keep them",
                    there.0
                )));
            }
            counts += 1;
            // SCAN may have returned a reader twice while Redis resized its table.
            (self.progress.cursors, self.progress.readers) = self.source.count().await?;
            self.copy(report).await?;
        }
    }

    /// Puts all cursors of the source. Returns how many were missing or behind.
    async fn put_all(&mut self, report: Report<'_>) -> Result<u64, AdminError> {
        let (mut repaired, mut node) = (0, 0);
        self.scans = vec![Scan::At(0); self.source.nodes.len()];
        while let Some(scan) = self.scans.get(node).copied() {
            let from = match scan {
                Scan::At(from) => from,
                Scan::Done => 0,
            };
            let (found, next) = self.source.readers_of_node(node, from).await?;
            for (partition, readers) in found {
                for readers in readers.chunks(READERS_AT_ONCE) {
                    self.copy_readers(partition, readers, report).await?;
                    self.report(report);
                }
            }
            repaired += self.flush(report).await?.advanced;
            if let Some(scan) = self.scans.get_mut(node) {
                *scan = if next == 0 { Scan::Done } else { Scan::At(next) };
            }
            node += usize::from(next == 0);
        }
        Ok(repaired)
    }
}
