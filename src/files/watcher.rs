//! Files that are read again when they change.
//!
//! They are read every half second, and a change counts once two reads agree. That notices every way
//! to replace a file, such as the symbolic links of a Kubernetes secret, and never uses half of one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// Time between two reads.
const INTERVAL: Duration = Duration::from_millis(500);

/// Some files, and their contents when they were last applied.
#[derive(Clone)]
pub struct FileWatcher {
    paths: Vec<PathBuf>,
    applied: Contents,
}

/// Contents of all files, or why one cannot be read.
type Contents = Result<Vec<Vec<u8>>, String>;

impl FileWatcher {
    /// Creates it for files whose contents are in use.
    pub fn new(paths: Vec<PathBuf>, contents: Vec<Vec<u8>>) -> Self {
        Self { paths, applied: Ok(contents) }
    }

    /// Calls `apply` with the contents each time that they change, for ever. Contents that it refuses
    /// are logged once, and those before stay in use.
    pub async fn run(mut self, apply: impl Fn(&[Vec<u8>]) -> Result<(), String>) {
        let mut last = self.applied.clone();
        loop {
            sleep(INTERVAL).await;
            let contents = self.read().await;
            if contents == last && contents != self.applied {
                let files = format!("{:?}", self.paths);
                match contents.as_deref().map_err(Clone::clone).and_then(&apply) {
                    Ok(()) => tracing::info!(files, "changed files are in use"),
                    Err(problem) => {
                        tracing::warn!(files, problem, "changed files are not used");
                    }
                }
                self.applied = contents.clone();
            }
            last = contents;
        }
    }

    async fn read(&self) -> Contents {
        let mut contents = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let read = tokio::fs::read(path).await;
            contents.push(read.map_err(|error| format!("cannot be read: {error}"))?);
        }
        Ok(contents)
    }
}

impl fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The contents are secrets.
        f.debug_struct("FileWatcher").field("paths", &self.paths).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn each_change_is_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&seen);
        let reread = FileWatcher::new(vec![path.clone()], vec![b"one".to_vec()]);
        let running = tokio::spawn(reread.run(move |contents| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            sink.lock().unwrap().push(text.clone());
            if text == "bad" { Err("is bad".to_owned()) } else { Ok(()) }
        }));
        for text in ["two", "bad", "three"] {
            fs::write(&path, text).unwrap();
            while seen.lock().unwrap().last().is_none_or(|last| last != text) {
                sleep(Duration::from_millis(10)).await;
            }
        }
        fs::remove_file(&path).unwrap();
        sleep(INTERVAL * 3).await;
        assert_eq!(*seen.lock().unwrap(), ["two", "bad", "three"]);
        running.abort();
    }
}
