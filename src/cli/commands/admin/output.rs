//! Where cursors are written to: standard output, or a file.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::domain::CursorRecord;
use crate::store::redis::AdminError;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers that wait while the other side does not take them.
const BUFFERS_WAITING: usize = 4;

/// Writes lines in a thread of its own, so that a reader that takes nothing does not keep the command
/// from being interrupted.
#[derive(Debug)]
pub(super) struct Output {
    name: String,
    buffer: String,
    sender: mpsc::Sender<String>,
    ended: oneshot::Receiver<io::Result<()>>,
}

/// What is written to.
enum Target {
    Stdout,
    /// Something that is there and is not a regular file: a pipe, a device.
    Open(File),
    /// A file that is not there, and the one that is written until it is complete.
    New {
        partial: File,
        partial_path: PathBuf,
        path: PathBuf,
    },
}

impl Output {
    /// Opens a file that must not exist; `None` is standard output.
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, AdminError> {
        let (name, target) = match path {
            None => ("standard output".to_owned(), Target::Stdout),
            Some(path) => {
                let name = format!("--output {}", path.display());
                let target = Target::open(path)
                    .map_err(|problem| AdminError::Failed(format!("{name} {problem}")))?;
                (name, target)
            }
        };
        let (sender, receiver) = mpsc::channel(BUFFERS_WAITING);
        let (end, ended) = oneshot::channel();
        thread::spawn(move || end.send(target.write_all(receiver)));
        Ok(Self { name, buffer: String::new(), sender, ended })
    }

    /// Writes the lines of cursors.
    pub(super) async fn write(&mut self, records: &[CursorRecord]) -> Result<(), AdminError> {
        for record in records {
            // Writing to a String cannot fail.
            let _ = writeln!(self.buffer, "{record}");
        }
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        let full = std::mem::take(&mut self.buffer);
        match self.sender.send(full).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.problem().await),
        }
    }

    /// Writes what is left, and waits until everything is written.
    pub(super) async fn finish(mut self) -> Result<(), AdminError> {
        let rest = std::mem::take(&mut self.buffer);
        // Where it was not taken, the thread has ended with an error.
        let _ = self.sender.send(rest).await;
        let Self { name, sender, ended, .. } = self;
        drop(sender);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(cannot_write(&name, &error)),
            Err(_) => Err(AdminError::Failed(format!("{name} cannot be written"))),
        }
    }

    async fn problem(&mut self) -> AdminError {
        match (&mut self.ended).await {
            Ok(Err(error)) => cannot_write(&self.name, &error),
            _ => AdminError::Failed(format!("{} cannot be written", self.name)),
        }
    }
}

fn cannot_write(name: &str, error: &io::Error) -> AdminError {
    AdminError::Failed(format!("{name} cannot be written: {error}"))
}

impl Target {
    fn open(path: PathBuf) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot be written: {error}");
        match fs::metadata(&path) {
            Ok(there) if there.is_file() => {
                return Err("exists already: name another file, or remove it".to_owned());
            }
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(&path).map_err(cannot)?;
                return Ok(Self::Open(file));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
        }
        let partial_path = partial(&path);
        // What an interrupted export has left may be readable to others, and would stay so.
        if let Err(error) = fs::remove_file(&partial_path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(cannot(error));
        }
        let create =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial_path);
        Ok(Self::New { partial: create.map_err(cannot)?, partial_path, path })
    }

    fn write_all(self, receiver: mpsc::Receiver<String>) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                copy(receiver, &mut stdout)?;
                stdout.flush()
            }
            Self::Open(mut file) => copy(receiver, &mut file),
            Self::New { mut partial, partial_path, path } => {
                copy(receiver, &mut partial)?;
                partial.sync_all()?;
                fs::rename(partial_path, path)
            }
        }
    }
}

fn copy(mut receiver: mpsc::Receiver<String>, target: &mut impl Write) -> io::Result<()> {
    while let Some(lines) = receiver.blocking_recv() {
        target.write_all(lines.as_bytes())?;
    }
    Ok(())
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}
