//! The copy of the sources into which the faults are put.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::table::Change;

/// A copy of the repository's files, with the changes that are not committed.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) root: PathBuf,
}

/// A fault that is in the copy until this is dropped.
#[derive(Debug)]
pub(crate) struct Applied {
    file: PathBuf,
    text: String,
}

impl Copy {
    /// Makes a copy, or brings an earlier one up to date. A file that is the same keeps its time, so that Cargo
    /// builds only what has changed.
    pub(crate) fn update(from: &Path, root: PathBuf) -> Result<Self, Error> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(from)
            .output()?;
        if !listed.status.success() {
            return Err("git cannot list the files of the repository".into());
        }
        let names = String::from_utf8(listed.stdout)?;
        let names = names.split_terminator('\0').map(PathBuf::from);
        // A file that was removed, and the removal not committed, is listed too.
        let names: HashSet<PathBuf> = names.filter(|name| from.join(name).is_file()).collect();
        for name in &names {
            copy_if_changed(&from.join(name), &root.join(name))?;
        }
        remove_others(&root, &root, &names)?;
        Ok(Self { root })
    }

    /// Puts a fault into the copy.
    pub(crate) fn apply(&self, change: &Change) -> Result<Applied, Error> {
        let file = self.root.join(&change.file);
        let changed = change.applied(&self.root)?;
        let applied = Applied { text: fs::read_to_string(&file)?, file };
        fs::write(&applied.file, changed)?;
        Ok(applied)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.text) {
            eprintln!("{} keeps a fault: {error}", self.file.display());
        }
    }
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<(), Error> {
    let contents = fs::read(from)?;
    if fs::read(to).is_ok_and(|known| known == contents) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

/// Removes the files below a folder that are not among those of the repository.
fn remove_others(folder: &Path, root: &Path, names: &HashSet<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, root, names)?;
        } else if !path.strip_prefix(root).is_ok_and(|name| names.contains(name)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let done = Command::new("git").args(arguments).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    #[test]
    fn a_copy_follows_the_sources_and_a_fault_is_taken_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let (from, root) = (folder.path().join("from"), folder.path().join("copy"));
        fs::create_dir_all(from.join("src")).unwrap();
        git(&from, &["init", "--quiet"]);
        fs::write(from.join(".gitignore"), "ignored\n").unwrap();
        for (name, text) in [("src/a", "one > two"), ("src/b", "b"), ("ignored", "")] {
            fs::write(from.join(name), text).unwrap();
        }
        let copy = Copy::update(&from, root.clone()).unwrap();
        assert!(root.join("src/b").exists() && !root.join("ignored").exists());

        let text = || fs::read_to_string(root.join("src/a")).unwrap();
        let [name, file, from_text, to] = ["name", "src/a", ">", ">="].map(str::to_owned);
        let change = Change { name, file, from: from_text, to };
        let applied = copy.apply(&change).unwrap();
        assert_eq!(text(), "one >= two");
        drop(applied);
        assert_eq!(text(), "one > two");

        // What an earlier run left behind is put right.
        fs::write(root.join("src/a"), "a fault").unwrap();
        fs::remove_file(from.join("src/b")).unwrap();
        Copy::update(&from, root.clone()).unwrap();
        assert_eq!(text(), "one > two");
        assert!(!root.join("src/b").exists());
    }
}
