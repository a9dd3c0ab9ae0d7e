//! `markread admin export`: all cursors as JSON lines.

use std::cell::Cell;
use std::path::PathBuf;

use super::progress::{Progress, SCAN_LENGTH, scans_position};
use super::{PROBLEMS_MAX_NAMED, counted, say};
use crate::cli::commands::interrupt::Interrupt;
use crate::cli::commands::output::Output;
use crate::domain::CursorRecord;
use crate::store::redis::{AdminError, ReaderProblem, RedisMode, StoreAdmin, StoreScan};

/// Counts of an export.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    cursors: u64,
    readers: u64,
    problems: u64,
}

impl Counts {
    fn describe(self) -> String {
        format!(
            "{} of {} exported",
            counted(self.cursors, "cursor"),
            counted(self.readers, "reader")
        )
    }
}

/// Writes all cursors.
pub(super) async fn run(mode: &RedisMode, file: Option<PathBuf>) -> Result<(), AdminError> {
    let mut admin = StoreAdmin::connect(mode, "").await?;
    let mut interrupt = Interrupt::new()?;
    let mut output = Output::open(file)?;
    let counts = Cell::new(Counts::default());
    let progress = Progress::new(Some(SCAN_LENGTH));
    let exported = tokio::select! {
        exported = export(&mut admin, &mut output, &counts, &progress) => exported,
        () = interrupt.wait() => Err(AdminError::Failed("interrupted".to_owned())),
    };
    let finished = match exported {
        Ok(()) => tokio::select! {
            finished = output.finish() => finished,
            () = interrupt.wait() => Err(AdminError::Failed("interrupted".to_owned())),
        },
        failed => failed,
    };
    drop(progress);
    let counts = counts.get();
    match finished {
        Ok(()) => say(&counts.describe()),
        Err(error) => {
            say(&format!("incomplete: {}", counts.describe()));
            return Err(error);
        }
    }
    if counts.problems > 0 {
        let problem = format!("{} cannot be read", counted(counts.problems, "reader"));
        return Err(AdminError::Failed(problem));
    }
    Ok(())
}

async fn export(
    admin: &mut StoreAdmin,
    output: &mut Output,
    counts: &Cell<Counts>,
    progress: &Progress,
) -> Result<(), AdminError> {
    let mut scan = StoreScan::default();
    while let Some(found) = admin.readers(&mut scan).await? {
        for (partition, readers) in found {
            let write = async |records: &[CursorRecord]| {
                output.write(records).await?;
                let mut done = counts.get();
                done.cursors += u64::try_from(records.len()).unwrap_or(u64::MAX);
                counts.set(done);
                Ok(())
            };
            let problems = admin.partition(partition)?.read_all(&readers, write).await?;
            let mut done = counts.get();
            for ReaderProblem { reader, problem } in &problems {
                done.problems += 1;
                if done.problems <= PROBLEMS_MAX_NAMED {
                    progress.say(&format!("the cursors of {reader} cannot be read: {problem}"));
                }
            }
            let failed = problems.len();
            done.readers += u64::try_from(readers.len() - failed).unwrap_or(u64::MAX);
            counts.set(done);
        }
        progress.set(scans_position(&scan.positions()), || counts.get().describe());
    }
    Ok(())
}
