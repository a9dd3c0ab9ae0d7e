//! `markread admin`: commands for operators, straight to Redis.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::store::redis::{AdminError, LayoutAdmin, Progress, RedisAddress};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A command for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// Write layout version 2.
    UpgradeLayout,
    /// Move all readers back to layout version 1.
    DowngradeLayout,
}

/// Runs a command, and passes it each line of output.
///
/// # Errors
///
/// [`AdminError`].
pub(crate) async fn run(
    address: &RedisAddress,
    command: AdminCommand,
    mut print: impl FnMut(String) -> io::Result<()>,
) -> Result<(), AdminError> {
    let mut admin = LayoutAdmin::connect(address).await?;
    let line = match command {
        AdminCommand::UpgradeLayout if admin.upgrade().await? => {
            "layout version 2: readers are moved at their next mark, batch or page".to_owned()
        }
        AdminCommand::UpgradeLayout => "layout version 2 already: nothing was changed".to_owned(),
        AdminCommand::DowngradeLayout => {
            let mut printed = Instant::now();
            let report = |progress| {
                if printed.elapsed() >= PROGRESS_INTERVAL {
                    printed = Instant::now();
                    // Progress is not the result: it is lost if nobody reads it.
                    let _ = writeln!(io::stderr(), "{}", describe(progress));
                }
            };
            match admin.downgrade(report).await? {
                Some(progress) => format!("layout version 1: {}", describe(progress)),
                None => "layout version 1 already: nothing was changed".to_owned(),
            }
        }
    };
    print(line).map_err(|error| AdminError::Failed(format!("standard output: {error}")))
}

fn describe(Progress { keys, readers, cursors }: Progress) -> String {
    format!("{cursors} cursors of {readers} readers moved, {keys} keys looked at")
}
