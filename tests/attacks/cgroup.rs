//! A cgroup with a limit of memory, or with a share of a CPU, of either version, where this process may make one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// A cgroup whose processes have a share of a CPU.
pub(crate) struct CpuShare(Cgroup);

impl CpuShare {
    /// Makes one for so many µs of every period.
    pub(crate) fn of(name: &str, us: u32, period_us: u32) -> Result<Arc<Self>, String> {
        let first_version = Path::new(ROOT).join("cpu");
        let (parent, limits) = if first_version.is_dir() {
            let quota = [("cpu.cfs_period_us", period_us), ("cpu.cfs_quota_us", us)];
            (first_version, quota.map(|(file, us)| (file, us.to_string())).to_vec())
        } else {
            (PathBuf::from(ROOT), vec![("cpu.max", format!("{us} {period_us}"))])
        };
        let path = parent.join(format!("markread-attacks-{name}-{}", std::process::id()));
        let failed = |what: &str, error| format!("{what} {}: {error}", path.display());
        fs::create_dir(&path).map_err(|error| failed("cannot make", error))?;
        let share = Self(Cgroup(path.clone()));
        for (file, limit) in limits {
            fs::write(path.join(file), limit).map_err(|error| failed("cannot limit", error))?;
        }
        Ok(Arc::new(share))
    }

    /// A shell command that moves the shell into it.
    pub(crate) fn enter(&self) -> String {
        self.0.enter()
    }

    /// Moves a process into it.
    pub(crate) fn take(&self, process: u32) {
        let processes = self.0.0.join("cgroup.procs");
        fs::write(processes, process.to_string()).expect("the process can be moved");
    }
}
