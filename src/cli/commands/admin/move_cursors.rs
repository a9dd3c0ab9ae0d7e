//! `markread admin move`: all cursors to another Redis, while this one is served.

use std::time::{Duration, Instant};

use super::progress::{Progress, SCAN_LENGTH, scans_position};
use super::{counted, say};
use crate::cli::commands::interrupt::Interrupt;
use crate::store::redis::{
    AdminError, Migration, MoveGoal, MoveProgress, MoveReport, MoveSummary, RedisMode,
};

/// Time between two lines of progress where there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A move of cursors.
#[derive(Clone, Debug)]
pub enum MoveCommand {
    /// Move them.
    Run {
        /// The stream of events.
        stream: String,
        /// The Redis that they are moved to.
        to: Box<RedisMode>,
        /// How far.
        goal: MoveGoal,
    },
    /// Let servers use the old Redis again.
    Undo {
        /// The stream of events.
        stream: String,
    },
}

/// Moves the cursors, and returns what was done.
pub(super) async fn run(from: &RedisMode, command: MoveCommand) -> Result<String, AdminError> {
    let (stream, to, goal) = match command {
        MoveCommand::Run { stream, to, goal } => (stream, to, goal),
        MoveCommand::Undo { stream } => {
            let was_moved = Migration::undo(from, &stream).await?;
            return Ok(
                if was_moved { "servers may use this Redis again" } else { NOT_MOVED }.to_owned()
            );
        }
    };
    let mut interrupt = Interrupt::new()?;
    let mut bar = MoveBar::new();
    let ended = tokio::select! {
        biased;
        () = interrupt.wait() => None,
        ended = move_all(from, &stream, &to, goal, &mut bar) => Some(ended),
    };
    let MoveBar { progress, is_copied, failed, is_shut_out, .. } = bar;
    drop(progress);
    let result = match ended {
        Some(ended) => ended,
        None if failed > 0 => Err(not_copied(failed)),
        None if is_copied && goal == MoveGoal::Follow => Ok(
            "stopped: all cursors were copied; what advances from now on is copied by the next move"
                .to_owned(),
        ),
        None if is_shut_out => Err(AdminError::Failed("interrupted".to_owned())),
        None => Err(AdminError::Failed("interrupted: run the command again to go on".to_owned())),
    };
    result.map_err(|error| if is_shut_out { AdminError::ShutOut(Box::new(error)) } else { error })
}

const NOT_MOVED: &str = "the cursors of this Redis were not moved: nothing was changed";

async fn move_all(
    from: &RedisMode,
    stream: &str,
    to: &RedisMode,
    goal: MoveGoal,
    bar: &mut MoveBar,
) -> Result<String, AdminError> {
    let mut migration =
        Migration::connect(from, stream, to, goal, &mut |report| bar.show(report)).await?;
    if goal == MoveGoal::Finish {
        let finished = migration.finish(&mut |report| bar.show(report)).await?;
        return Ok(describe(finished));
    }
    let copied = migration.copy(&mut |report| bar.show(report)).await?;
    if copied.failed > 0 {
        return Err(not_copied(copied.failed));
    }
    bar.is_copied = true;
    let line = format!("{}: all are copied", bar.describe(copied));
    if goal == MoveGoal::Copy {
        return Ok(format!(
            "{line}. What advances from now on is copied by the next move: the last one needs --finish"
        ));
    }
    bar.progress.say(&line);
    migration.follow_on(&mut |report| bar.show(report)).await?;
    Ok(line)
}

fn not_copied(failed: u64) -> AdminError {
    AdminError::Failed(format!("not everything is copied: {}", counted(failed, "problem")))
}

/// The progress of a move.
struct MoveBar {
    progress: Progress,
    began: Instant,
    said: Instant,
    is_copied: bool,
    /// Cursors and readers that were not copied.
    failed: u64,
    /// Whether the old servers are shut out, or are being.
    is_shut_out: bool,
}

impl MoveBar {
    fn new() -> Self {
        let (began, said) = (Instant::now(), Instant::now());
        let progress = Progress::new(Some(SCAN_LENGTH));
        Self { progress, began, said, is_copied: false, failed: 0, is_shut_out: false }
    }

    fn show(&mut self, report: MoveReport<'_>) {
        match report {
            MoveReport::Line(line) => self.progress.say(&line),
            MoveReport::ShutOut => self.is_shut_out = true,
            MoveReport::Progress { progress, scans } => {
                self.failed = progress.failed;
                let position = scans_position(scans);
                self.progress.set(position, || self.describe(progress));
                if self.progress.is_hidden() && self.said.elapsed() >= PROGRESS_INTERVAL {
                    self.said = Instant::now();
                    let percent = 100 * position / SCAN_LENGTH;
                    say(&format!("{percent} %: {}", self.describe(progress)));
                }
            }
        }
    }

    fn describe(&self, progress: MoveProgress) -> String {
        let MoveProgress { cursors, readers, entries, .. } = progress;
        let elapsed_ms = self.began.elapsed().as_millis().max(1);
        let rate = u128::from(cursors) * 1000 / elapsed_ms;
        format!(
            "{} of {} ({rate} a second), {}",
            counted(cursors, "cursor"),
            counted(readers, "reader"),
            counted(entries, "event")
        )
    }
}

fn describe(summary: MoveSummary) -> String {
    let MoveSummary { cursors, readers, at_destination, repaired, without_service } = summary;
    let mut line = format!(
        "moved: {} of {}; at the destination {} of {}, none behind",
        counted(cursors, "cursor"),
        counted(readers, "reader"),
        counted(at_destination.0, "cursor"),
        counted(at_destination.1, "reader"),
    );
    if repaired > 0 {
        line.extend(["; ", &counted(repaired, "cursor"), " first put by the verification"]);
    }
    if let Some(without_service) = without_service {
        let seconds = format!("{:.1}", without_service.as_secs_f64());
        line.extend(["; ", &seconds, " s without service"]);
    }
    line
}
