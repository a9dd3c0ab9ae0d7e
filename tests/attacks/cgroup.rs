//! A cgroup with a memory limit, of either version, where this process may make one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup, removed when it is dropped.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one, or returns why that is not possible.
    pub(crate) fn with_limit(mib: u64) -> Result<Self, String> {
        let first_version = Path::new(ROOT).join("memory");
        let (parent, limit) = if first_version.is_dir() {
            (first_version, "memory.limit_in_bytes")
        } else {
            (PathBuf::from(ROOT), "memory.max")
        };
        let path = parent.join(format!("markread-attacks-{}", std::process::id()));
        let failed = |what: &str, error| format!("{what} {}: {error}", path.display());
        fs::create_dir(&path).map_err(|error| failed("cannot make", error))?;
        let cgroup = Self(path.clone());
        let bytes = (mib << 20).to_string();
        fs::write(path.join(limit), bytes).map_err(|error| failed("cannot limit", error))?;
        Ok(cgroup)
    }

    /// A shell command that moves the shell into it.
    pub(crate) fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs\n", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last server may still be ending.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
