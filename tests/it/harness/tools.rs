//! Programs of others that tests run, as `tests/run` installs them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(300);

/// What a variable of `tests/run` says, or what to do without.
pub(crate) fn tool(variable: &str, default: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| default.into())
}

/// The interpreter that has the packages of `tests/clients/requirements.txt`.
pub(crate) fn python() -> OsString {
    tool("MARKREAD_TEST_PYTHON", "python3")
}

/// A file of the project.
pub(crate) fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program to its end, which is to be a good one, and gives what it printed.
pub(crate) async fn output(mut command: Command) -> String {
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = timeout(LIMIT, ended).await.expect("it ends").expect("it is installed");
    let (out, err) = (String::from_utf8(ended.stdout).unwrap(), ended.stderr);
    assert!(ended.status.success(), "{out}{}", String::from_utf8_lossy(&err));
    out
}
