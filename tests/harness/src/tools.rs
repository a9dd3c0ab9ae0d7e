//! Programs that tests run, as `tests/run` installs them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(300);

/// The value of a variable that `tests/run` sets, or a default.
pub fn tool(variable: &str, default: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| default.into())
}

/// The Python interpreter with the packages of `tests/clients/requirements.txt`.
pub fn python() -> OsString {
    tool("MARKREAD_TEST_PYTHON", "python3")
}

/// A file of the repository, by its path from the root.
pub fn file(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    root.join(path)
}

/// Runs a program, and returns what it printed. Panics if it fails.
pub async fn output(mut command: Command) -> String {
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = timeout(LIMIT, ended).await.expect("it ends").expect("it is installed");
    let (out, err) = (String::from_utf8(ended.stdout).unwrap(), ended.stderr);
    assert!(ended.status.success(), "{out}{}", String::from_utf8_lossy(&err));
    out
}
