//! The `markread` binary under test.

use std::env::{current_exe, var_os};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// Returns the path of the binary that Cargo has built for the running test or bench.
///
/// Cargo builds it for the tests and benches of the package `markread` alone, and (since 1.94) sets
/// a variable to its path. Without the variable it is looked for where Cargo puts it: one directory
/// above that of the running executable. Other packages have to build and name it themselves.
pub fn path() -> PathBuf {
    if let Some(path) = var_os("CARGO_BIN_EXE_markread") {
        return path.into();
    }
    let package = var_os("CARGO_PKG_NAME");
    assert!(
        package.as_deref().is_none_or(|name| name == "markread"),
        "Cargo does not build the binary for {package:?}: set CARGO_BIN_EXE_markread to its path"
    );
    let executable = current_exe().unwrap();
    let path = executable.parent().unwrap().with_file_name("markread");
    assert!(path.exists(), "no binary at {}: set CARGO_BIN_EXE_markread", path.display());
    path
}

/// Returns a command that runs the binary without the environment variables that would configure
/// it. The process ends with the test.
pub fn command(args: &[&str]) -> Command {
    command_of(&path(), args)
}

/// The same as [`command`], with another binary, such as one of an earlier version.
pub fn command_of(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    without_settings(&mut command).args(args);
    command
}

/// Removes the environment variables that would configure the binary from a command. Its process ends
/// with the test.
pub fn without_settings(command: &mut Command) -> &mut Command {
    let names = std::env::vars().map(|(name, _)| name);
    let ours = names.filter(|name| {
        name.starts_with("MARKREAD_") || name.starts_with("OTEL_") || name == "RUST_LOG"
    });
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.stdin(Stdio::null()).kill_on_drop(true)
}
