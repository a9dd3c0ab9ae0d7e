//! `markread admin`: commands for operators, straight to Redis.

use std::io;
use std::path::PathBuf;

use super::lines::InputSource;
use super::{counted, say};
use crate::domain::{CursorRecord, UserId};
use crate::store::redis::{AdminError, PutRule, RedisMode};

mod cursors;
mod erase;
mod export;
mod import;
mod layout;
mod lines;
mod move_cursors;
mod progress;

pub(crate) use self::erase::EraseScope;
pub(crate) use self::layout::LayoutCommand;
pub(crate) use self::move_cursors::MoveCommand;

/// Invalid lines, or readers that cannot be read, that are named.
const PROBLEMS_MAX_NAMED: u64 = 10;

/// A command for operators.
#[derive(Clone, Debug)]
pub enum AdminCommand {
    /// Change the layout.
    Layout(LayoutCommand),
    /// Print a reader's cursors.
    Cursors(UserId),
    /// Set a reader's cursor.
    Set(CursorRecord, PutRule),
    /// Erase what Redis holds of a user.
    Erase(UserId, EraseScope),
    /// Write all cursors to a file; `None` is standard output.
    Export(Option<PathBuf>),
    /// Move all cursors to another Redis.
    Move(MoveCommand),
    /// Put the cursors of a file, except for this many lines at its beginning.
    Import {
        /// The file.
        source: InputSource,
        /// Lines that were done before.
        skip_lines: u64,
    },
}

/// Runs a command, and passes it each line of its result.
///
/// # Errors
///
/// [`AdminError`].
pub(crate) async fn run(
    mode: &RedisMode,
    command: AdminCommand,
    mut print: impl FnMut(String) -> io::Result<()>,
) -> Result<(), AdminError> {
    let line = match command {
        AdminCommand::Layout(command) => layout::run(mode, command).await?,
        AdminCommand::Set(record, rule) => cursors::set(mode, record, rule).await?,
        AdminCommand::Erase(user, scope) => erase::run(mode, user, &scope).await?,
        AdminCommand::Move(command) => move_cursors::run(mode, command).await?,
        AdminCommand::Cursors(user) => return cursors::run(mode, user).await,
        AdminCommand::Export(file) => return export::run(mode, file).await,
        AdminCommand::Import { source, skip_lines } => {
            return import::run(mode, source, skip_lines).await;
        }
    };
    print(line).map_err(|error| AdminError::Failed(format!("standard output: {error}")))
}
