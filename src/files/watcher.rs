//! Files that are read again when they change.
//!
//! They are read every half second, and a change counts once two reads agree. That notices every way
//! to replace a file, such as the symbolic links of a Kubernetes secret, and never uses half of one. On
//! request (SIGHUP) they are read at once, and what is read counts.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Time between two reads.
const INTERVAL: Duration = Duration::from_millis(500);

/// Requests that files are read at once.
#[derive(Clone, Debug, Default)]
pub struct Reread(watch::Sender<()>);

impl Reread {
    /// Requests it of every [`FileWatcher`] that runs with this handle.
    pub fn request(&self) {
        self.0.send_replace(());
    }
}

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
    pub async fn run(self, reread: &Reread, apply: impl Fn(&[Vec<u8>]) -> Result<(), String>) {
        let files = format!("{:?}", self.paths);
        let (paths, apply) = (self.paths, |contents: &Vec<Vec<u8>>| apply(contents));
        watch_contents(files, self.applied, reread, || read(paths.clone()), apply, |_| {}).await;
    }
}

/// Calls `apply` with the result of `read` each time that it changes, for ever, beginning with a change
/// of `applied`. What cannot be read and what is refused is logged once, and what was before stays in use.
/// `files` are for the log. `note` is called with what is wrong each time, or that nothing is any more.
pub async fn watch_contents<T, F>(
    files: String,
    mut applied: Result<T, String>,
    reread: &Reread,
    read: impl Fn() -> F,
    apply: impl Fn(&T) -> Result<(), String>,
    note: impl Fn(Option<&str>),
) where
    T: Clone + PartialEq,
    F: Future<Output = Result<T, String>>,
{
    let mut requests = reread.0.subscribe();
    let mut last = applied.clone();
    loop {
        // The sender is in `reread`: the wait cannot fail.
        let is_requested = timeout(INTERVAL, requests.changed()).await.is_ok();
        let contents = read().await;
        if (is_requested || contents == last) && contents != applied {
            match contents.as_ref().map_err(Clone::clone).and_then(&apply) {
                Ok(()) => {
                    note(None);
                    tracing::info!(files, "changed files are in use");
                }
                Err(problem) => {
                    note(Some(&problem));
                    tracing::warn!(files, problem, "changed files are not used");
                }
            }
            applied = contents.clone();
        }
        last = contents;
    }
}

async fn read(paths: Vec<PathBuf>) -> Contents {
    let mut contents = Vec::with_capacity(paths.len());
    for path in &paths {
        let read = tokio::fs::read(path).await;
        contents.push(read.map_err(|error| format!("cannot be read: {error}"))?);
    }
    Ok(contents)
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
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Runs a watcher of a file with the text "one". Returns what it applies, as it comes.
    fn watch(path: &Path, reread: &Reread) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
        fs::write(path, "one").unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sink, reread) = (Arc::clone(&seen), reread.clone());
        let watcher = FileWatcher::new(vec![path.to_owned()], vec![b"one".to_vec()]);
        let running = tokio::spawn(async move {
            let apply = |contents: &[Vec<u8>]| {
                let text = String::from_utf8_lossy(&contents[0]).into_owned();
                sink.lock().unwrap().push(text.clone());
                if text == "bad" { Err("is bad".to_owned()) } else { Ok(()) }
            };
            watcher.run(&reread, apply).await;
        });
        (seen, running)
    }

    #[tokio::test(start_paused = true)]
    async fn on_request_a_file_is_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let reread = Reread::default();
        let (seen, running) = watch(&path, &reread);
        // It waits for its first interval.
        sleep(INTERVAL / 10).await;
        for text in ["two", "three"] {
            let began = Instant::now();
            fs::write(&path, text).unwrap();
            reread.request();
            while seen.lock().unwrap().last().is_none_or(|last| last != text) {
                sleep(INTERVAL / 100).await;
            }
            assert!(began.elapsed() < INTERVAL / 2, "{:?}", began.elapsed());
        }
        reread.request();
        sleep(INTERVAL * 3).await;
        assert_eq!(*seen.lock().unwrap(), ["two", "three"], "an unchanged file is not applied");
        running.abort();
    }

    #[tokio::test]
    async fn each_change_is_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (seen, running) = watch(&path, &Reread::default());
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
