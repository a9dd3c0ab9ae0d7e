//! Where lines are written to: standard output, or a file.

use std::fmt::{Display, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::store::redis::AdminError;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers that wait while the other side does not take them.
const BUFFERS_WAITING: usize = 4;

/// A message to the thread. If the channel is closed before the end, the output is incomplete.
#[derive(Debug)]
enum Part {
    Lines(String),
    End,
}

/// Writes lines in a thread of its own, so that a reader that takes nothing does not keep the command
/// from being interrupted.
#[derive(Debug)]
pub(super) struct Output {
    name: String,
    buffer: String,
    sender: mpsc::Sender<Part>,
    ended: oneshot::Receiver<io::Result<()>>,
    /// Whether nobody reads it any more, as after `| head`.
    is_unread: bool,
}

/// The target of an output.
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
        Ok(Self { name, buffer: String::new(), sender, ended, is_unread: false })
    }

    /// Writes each record as a line.
    pub(super) async fn write(&mut self, records: &[impl Display]) -> Result<(), AdminError> {
        for record in records {
            // Writing to a String cannot fail.
            let _ = writeln!(self.buffer, "{record}");
        }
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        let full = std::mem::take(&mut self.buffer);
        match self.sender.send(Part::Lines(full)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.problem().await),
        }
    }

    /// Returns whether the last write failed since nobody reads the output any more.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Writes what is left, and waits until everything is written.
    pub(super) async fn finish(&mut self) -> Result<(), AdminError> {
        let rest = std::mem::take(&mut self.buffer);
        // Where it was not taken, the thread has ended with an error.
        for part in [Part::Lines(rest), Part::End] {
            let _ = self.sender.send(part).await;
        }
        match (&mut self.ended).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.cannot_write(&error)),
            Err(_) => Err(AdminError::Failed(format!("{} cannot be written", self.name))),
        }
    }

    async fn problem(&mut self) -> AdminError {
        match (&mut self.ended).await {
            Ok(Err(error)) => self.cannot_write(&error),
            _ => AdminError::Failed(format!("{} cannot be written", self.name)),
        }
    }

    fn cannot_write(&mut self, error: &io::Error) -> AdminError {
        self.is_unread = error.kind() == io::ErrorKind::BrokenPipe;
        AdminError::Failed(format!("{} cannot be written: {error}", self.name))
    }
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(&path).is_ok() {
                    return Err("exists already, as a link to nowhere".to_owned());
                }
            }
            Err(error) => return Err(cannot(error)),
        }
        let partial_path = partial(&path);
        // The file of an interrupted export may be readable to others, and would stay so.
        if let Err(error) = fs::remove_file(&partial_path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(cannot(error));
        }
        let create =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial_path);
        Ok(Self::New { partial: create.map_err(cannot)?, partial_path, path })
    }

    fn write_all(self, receiver: mpsc::Receiver<Part>) -> io::Result<()> {
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
                check_same(&partial, &partial_path)?;
                rename_new(&partial_path, &path)
            }
        }
    }
}

fn copy(mut receiver: mpsc::Receiver<Part>, target: &mut impl Write) -> io::Result<()> {
    loop {
        match receiver.blocking_recv() {
            Some(Part::Lines(lines)) => target.write_all(lines.as_bytes())?,
            Some(Part::End) => return Ok(()),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Checks that a path still leads to an open file: another export to it may have begun.
fn check_same(file: &File, path: &Path) -> io::Result<()> {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    if identity(file.metadata()?) == identity(fs::metadata(path)?) {
        return Ok(());
    }
    Err(io::Error::other(format!("another export replaced {}", path.display())))
}

/// Renames a file, unless there is one of the new name: what has appeared meanwhile is not replaced.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no hard links.
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Conversation, CursorRecord};

    fn record() -> CursorRecord {
        let id = |id: u64| id.try_into().unwrap();
        CursorRecord {
            conversation: Conversation { reader: id(1), recipient: id(2) },
            last_read_event_id: 3.try_into().unwrap(),
            read_at_ms: Some(4),
        }
    }

    #[tokio::test]
    async fn of_two_exports_to_a_file_the_later_one_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors.jsonl");
        let mut outputs = Vec::new();
        for _ in 0..2 {
            let mut output = Output::open(Some(path.clone())).unwrap();
            output.write(&[record()]).await.unwrap();
            outputs.push(output);
        }
        let mut later = outputs.pop().unwrap();
        let refused = outputs.last_mut().unwrap().finish().await.unwrap_err();
        assert!(refused.to_string().contains("another export replaced"), "{refused}");
        assert!(!path.exists());
        later.finish().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", record()));
    }

    #[tokio::test]
    async fn a_file_gets_its_name_only_when_it_is_complete() {
        for is_finished in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("cursors.jsonl");
            let mut output = Output::open(Some(path.clone())).unwrap();
            output.write(&[record()]).await.unwrap();
            if is_finished {
                output.finish().await.unwrap();
            } else {
                let Output { sender, ended, .. } = output;
                drop(sender);
                assert!(ended.await.unwrap().is_err());
            }
            assert_eq!(path.exists(), is_finished);
            assert_eq!(partial(&path).exists(), !is_finished);
        }
    }

    #[tokio::test]
    async fn a_file_that_appears_meanwhile_is_not_overwritten() {
        for appears in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("cursors.jsonl");
            let mut output = Output::open(Some(path.clone())).unwrap();
            output.write(&[record()]).await.unwrap();
            if appears {
                fs::write(&path, "mine").unwrap();
                let problem = output.finish().await.unwrap_err().to_string();
                assert!(problem.contains("exists"), "{problem}");
                assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
            } else {
                output.finish().await.unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", record()));
            }
            assert_eq!(partial(&path).exists(), appears);
        }
    }

    #[test]
    fn a_link_to_nowhere_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors.jsonl");
        std::os::unix::fs::symlink("/nonexistent", &path).unwrap();
        assert!(Output::open(Some(path)).unwrap_err().to_string().contains("exists already"));
    }
}
