//! Files that are read again when they change.
//!
//! Looked at by their contents, twice in a row alike: that sees every way to replace a file, the
//! symbolic links of a Kubernetes secret included, and takes none that is half written.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// Between two looks. A change is taken with the second look that finds it.
const INTERVAL: Duration = Duration::from_millis(500);

/// Some files, and what they held when they were last taken.
#[derive(Clone)]
pub struct Reread {
    paths: Vec<PathBuf>,
    taken: Look,
}

/// What the files hold, or which cannot be read.
type Look = Result<Vec<Vec<u8>>, String>;

impl Reread {
    /// Files that were read and taken once.
    pub fn new(paths: Vec<PathBuf>, contents: Vec<Vec<u8>>) -> Self {
        Self { paths, taken: Ok(contents) }
    }

    /// Gives the files to `take` each time that they have changed, for ever. Contents that it does
    /// not take are told once, and what was taken before stays.
    pub async fn keep(mut self, take: impl Fn(&[Vec<u8>]) -> Result<(), String>) {
        let mut last = self.taken.clone();
        loop {
            sleep(INTERVAL).await;
            let look = self.look().await;
            if look == last && look != self.taken {
                let files = format!("{:?}", self.paths);
                match look.as_deref().map_err(Clone::clone).and_then(&take) {
                    Ok(()) => tracing::info!(files, "files have changed and are taken"),
                    Err(problem) => {
                        tracing::warn!(files, problem, "files have changed and are not taken");
                    }
                }
                self.taken = look.clone();
            }
            last = look;
        }
    }

    async fn look(&self) -> Look {
        let mut contents = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let read = tokio::fs::read(path).await;
            contents.push(read.map_err(|error| format!("cannot be read: {error}"))?);
        }
        Ok(contents)
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The contents are secrets.
        f.debug_struct("Reread").field("paths", &self.paths).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_change_is_taken_once_and_what_is_refused_is_not_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&seen);
        let reread = Reread::new(vec![path.clone()], vec![b"one".to_vec()]);
        let keeping = tokio::spawn(reread.keep(move |contents| {
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
        keeping.abort();
    }
}
