//! The file of `--webhooks`: which webhooks there are (`docs/webhooks.md`). It is read again when it or a
//! file that it names changes.

mod definition;
pub(super) mod entries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use self::definition::Definition;
use super::webhook::{Targets, Webhook, Webhooks};
use crate::files::{Reread, open_regular, problem, watch_contents};

/// Largest file, in bytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The file of `--webhooks`, and the webhooks of the last good one.
pub struct WebhooksFile {
    path: PathBuf,
    targets: Targets,
    contents: Contents,
    defined: Vec<(Definition, Arc<Webhook>)>,
    webhooks: watch::Sender<Webhooks>,
    warnings: watch::Sender<Vec<String>>,
}

/// The file's contents, and those of the files that it names.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    text: Vec<u8>,
    named: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
}

impl WebhooksFile {
    /// Reads the file, and those that it names.
    ///
    /// # Errors
    ///
    /// What is wrong, and where. The text contains no secret.
    pub fn read(path: &Path, targets: Targets) -> Result<Self, String> {
        let contents = Contents::read(path).map_err(|what| problem(FLAG, path, &what))?;
        let defined = define(path, &contents, targets, &[])?;
        let webhooks = watch::Sender::new(webhooks(&defined));
        let warnings = watch::Sender::default();
        Ok(Self { path: path.to_owned(), targets, contents, defined, webhooks, warnings })
    }

    /// Returns the webhooks, as they change.
    pub fn watch(&self) -> watch::Receiver<Webhooks> {
        self.webhooks.subscribe()
    }

    /// Returns what is wrong with the files as they are now, for `/readyz`.
    pub fn warnings(&self) -> watch::Receiver<Vec<String>> {
        self.warnings.subscribe()
    }

    /// Reads the files again when they change, for ever. A mistake is logged once, and the webhooks stay as
    /// they are.
    pub async fn run(self, reread: &Reread) {
        let Self { path, targets, contents, defined, webhooks: sender, warnings } = self;
        let defined = Mutex::new(defined);
        let apply = |contents: &Contents| {
            let mut defined = defined.lock().unwrap_or_else(PoisonError::into_inner);
            let new = define(&path, contents, targets, &defined)?;
            let changed = webhooks(&new);
            *defined = new;
            sender.send_if_modified(|current| {
                let same = |(a, b): (&Arc<Webhook>, &Arc<Webhook>)| Arc::ptr_eq(a, b);
                let is_same =
                    current.len() == changed.len() && current.iter().zip(&*changed).all(same);
                *current = changed;
                !is_same
            });
            Ok(())
        };
        let read = || async {
            let path = path.clone();
            let reading = spawn_blocking(move || Contents::read(&path)).await;
            reading.unwrap_or_else(|error| Err(error.to_string()))
        };
        let files = format!("{:?}", [&path]);
        let note = |problem: Option<&str>| {
            let warning = |problem| format!("the last good webhooks are in use: {problem}");
            warnings.send_replace(problem.map(warning).into_iter().collect());
        };
        watch_contents(files, Ok(contents), reread, read, apply, note).await;
    }
}

const FLAG: &str = "--webhooks";

fn webhooks(defined: &[(Definition, Arc<Webhook>)]) -> Webhooks {
    defined.iter().map(|(_, webhook)| Arc::clone(webhook)).collect()
}

/// Creates the webhooks of a file. Those that are defined as before are the same as before.
fn define(
    path: &Path,
    contents: &Contents,
    targets: Targets,
    before: &[(Definition, Arc<Webhook>)],
) -> Result<Vec<(Definition, Arc<Webhook>)>, String> {
    let about = |what: String| problem(FLAG, path, &what);
    let entries = entries::parse(&contents.text, folder(path)).map_err(about)?;
    let mut defined = Vec::with_capacity(entries.len());
    for entry in entries {
        let definition = Definition::new(&entry, &contents.named).map_err(about)?;
        let same = before.iter().find(|(before, _)| *before == definition);
        let webhook = match same {
            Some((_, webhook)) => Arc::clone(webhook),
            None => Arc::new(
                definition
                    .to_webhook(targets)
                    .map_err(|(member, what)| about(entry.problem(member, &what)))?,
            ),
        };
        defined.push((definition, webhook));
    }
    Ok(defined)
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Contents {
    /// Reads the files. One that is named and cannot be read fails later, with the webhook that names it.
    fn read(path: &Path) -> Result<Self, String> {
        let text = read_bounded(path)?;
        let entries = entries::parse(&text, folder(path)).unwrap_or_default();
        let paths = entries.into_iter().flat_map(|entry| entry.files.into_values());
        let mut named = BTreeMap::new();
        for path in paths {
            named.entry(path).or_insert_with_key(|path| read_bounded(path));
        }
        Ok(Self { text, named })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut contents = Vec::new();
    let read = |contents: &mut Vec<u8>| -> io::Result<_> {
        open_regular(path)?.take(FILE_MAX_BYTES + 1).read_to_end(contents)
    };
    match read(&mut contents) {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= FILE_MAX_BYTES) => {
            Ok(contents)
        }
        Ok(_) => Err("is larger than 1 MiB".to_owned()),
    }
}

impl std::fmt::Debug for WebhooksFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhooksFile").field("path", &self.path).finish_non_exhaustive()
    }
}
