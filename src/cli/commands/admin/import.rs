//! `markread admin import`: puts the cursors of JSON lines.

use std::collections::VecDeque;

use tokio::task::JoinHandle;

use super::lines::{self, Piece, Pieces};
use super::progress::Progress;
use super::{PROBLEMS_MAX_NAMED, counted, say};
use crate::cli::commands::interrupt::Interrupt;
use crate::cli::commands::lines::InputSource;
use crate::store::redis::{AdminError, PutOutcome, PutReply, PutRule, RedisMode, StoreAdmin};

/// Script calls on the way at the same time: while Redis works on one, the next ones arrive.
const CALLS_AT_ONCE: usize = 4;

/// Counts of an import.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Lines up to which everything is done.
    lines: u64,
    advanced: u64,
    unchanged: u64,
    behind: u64,
    invalid: u64,
    failed: u64,
}

impl Counts {
    fn describe(self) -> String {
        let Self { lines, advanced, unchanged, behind, invalid, failed } = self;
        format!(
            "{}: {advanced} advanced, {unchanged} unchanged, {behind} behind, {invalid} invalid, \
             {failed} failed",
            counted(lines, "line")
        )
    }
}

/// A piece that is on its way to Redis, and comes back with the reply.
type Call = JoinHandle<(Piece, Result<PutReply, AdminError>)>;

/// Puts the cursors of a source.
pub(super) async fn run(
    mode: &RedisMode,
    source: InputSource,
    skip_lines: u64,
) -> Result<(), AdminError> {
    let opened = lines::read(&source, skip_lines);
    let cannot_read = |error| AdminError::Failed(format!("{source} cannot be read: {error}"));
    let (pieces, length) = opened.map_err(cannot_read)?;
    let (admin, is_new) = StoreAdmin::connect_or_create(mode).await?;
    if is_new {
        say("this Redis had no layout of markread: version 2 was written");
    }
    let mut interrupt = Interrupt::new()?;
    let mut import = Import {
        admin,
        counts: Counts { lines: skip_lines, ..Counts::default() },
        calls: VecDeque::new(),
        progress: Progress::new(length),
        named: 0,
        was_unmoved: false,
    };
    let done = tokio::select! {
        biased;
        () = interrupt.wait() => Err("interrupted".to_owned()),
        done = import.run(pieces) => done,
    };
    let Import { counts, progress, .. } = import;
    drop(progress);
    say(&counts.describe());
    match done {
        Err(problem) => Err(AdminError::Failed(format!(
            "{problem}: to go on, run the command again with --skip-lines {}",
            counts.lines
        ))),
        Ok(()) if counts.lines < skip_lines => Err(AdminError::Failed(format!(
            "--skip-lines {skip_lines}: there is only {}",
            counted(counts.lines, "line")
        ))),
        Ok(()) => match counts.invalid + counts.failed {
            0 => Ok(()),
            bad => Err(AdminError::Failed(format!("{} not imported", counted(bad, "line")))),
        },
    }
}

/// An import that is under way.
struct Import {
    admin: StoreAdmin,
    counts: Counts,
    calls: VecDeque<Call>,
    progress: Progress,
    /// Lines that could not be imported: the first ones are named.
    named: u64,
    was_unmoved: bool,
}

impl Import {
    /// Puts everything. The counts are right whenever it is dropped: pieces are counted in order.
    async fn run(&mut self, mut pieces: Pieces) -> Result<(), String> {
        let mut end = None;
        while end.is_none() || !self.calls.is_empty() {
            let may_call = end.is_none() && self.calls.len() < CALLS_AT_ONCE;
            tokio::select! {
                piece = pieces.recv(), if may_call => match piece {
                    Some(Ok(piece)) => self.call(piece),
                    Some(Err(error)) => end = Some(Err(format!("cannot be read on: {error}"))),
                    None => end = Some(Ok(())),
                },
                done = first(&mut self.calls), if !self.calls.is_empty() => {
                    let (piece, reply) = done?;
                    self.count(&piece, reply.map_err(|error| error.to_string())?);
                }
            }
        }
        end.unwrap_or(Ok(()))
    }

    fn call(&mut self, piece: Piece) {
        let mut admin = self.admin.clone();
        self.calls.push_back(tokio::spawn(async move {
            if piece.records.is_empty() {
                return (piece, Ok(PutReply { outcomes: Vec::new(), unmoved: None }));
            }
            let reply = admin.put(&piece.records, PutRule::Forward).await;
            (piece, reply)
        }));
    }

    fn count(&mut self, piece: &Piece, reply: PutReply) {
        if let Some(problem) = reply.unmoved.filter(|_| !self.was_unmoved) {
            self.was_unmoved = true;
            self.progress
                .say(&format!("readers are not moved to the placement of the layout: {problem}"));
        }
        let mut problems = Vec::new();
        for (number, problem) in &piece.invalid {
            self.counts.invalid += 1;
            problems.push((*number, problem.clone()));
        }
        for (number, outcome) in piece.numbers.iter().zip(reply.outcomes) {
            match outcome {
                Ok(PutOutcome::Advanced { .. }) => self.counts.advanced += 1,
                Ok(PutOutcome::Unchanged) => self.counts.unchanged += 1,
                Ok(PutOutcome::Behind { .. }) => self.counts.behind += 1,
                Err(problem) => {
                    self.counts.failed += 1;
                    problems.push((*number, problem.to_string()));
                }
            }
        }
        problems.sort_unstable();
        for (number, problem) in problems {
            self.named += 1;
            if self.named <= PROBLEMS_MAX_NAMED {
                self.progress.say(&format!("line {number}: {problem}"));
            }
        }
        self.counts.lines = piece.last_line;
        self.progress.set(piece.position, || self.counts.describe());
    }
}

/// Waits for the first of the calls.
async fn first(
    calls: &mut VecDeque<Call>,
) -> Result<(Piece, Result<PutReply, AdminError>), String> {
    // Without a call there is nothing to wait for, and nothing comes.
    let Some(call) = calls.front_mut() else { return std::future::pending().await };
    let done = call.await;
    calls.pop_front();
    done.map_err(|error| format!("a call has failed: {error}"))
}
