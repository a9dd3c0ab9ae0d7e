//! `markread admin upgrade-layout` and `downgrade-layout`.

use std::time::{Duration, Instant};

use super::say;
use crate::store::redis::{AdminError, LayoutAdmin, Progress, RedisMode};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A change of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutCommand {
    /// Write layout version 2.
    Upgrade,
    /// Move all readers back to layout version 1.
    Downgrade,
}

/// Changes the layout, and returns what was done.
pub(super) async fn run(mode: &RedisMode, command: LayoutCommand) -> Result<String, AdminError> {
    let mut admin = LayoutAdmin::connect(mode).await?;
    Ok(match command {
        LayoutCommand::Upgrade if admin.upgrade().await? => {
            "layout version 2: readers are moved at their next mark, batch or page".to_owned()
        }
        LayoutCommand::Upgrade => "layout version 2 already: nothing was changed".to_owned(),
        LayoutCommand::Downgrade => {
            let mut printed = Instant::now();
            let report = |progress| {
                if printed.elapsed() >= PROGRESS_INTERVAL {
                    printed = Instant::now();
                    say(&describe(progress));
                }
            };
            match admin.downgrade(report).await? {
                Some(progress) => format!("layout version 1: {}", describe(progress)),
                None => "layout version 1 already: nothing was changed".to_owned(),
            }
        }
    })
}

fn describe(Progress { keys, readers, cursors }: Progress) -> String {
    format!("{cursors} cursors of {readers} readers moved, {keys} keys looked at")
}
