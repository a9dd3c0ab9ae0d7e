//! Cargo's builds of the copy, and its tests.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Error;
use crate::copy::Copy;
use crate::script;
use crate::table::Change;

/// Time for the tests of one fault. Those that it lets hang have found it.
const TESTS_TIMEOUT: Duration = Duration::from_secs(240);

/// The copy, and the directory that its builds share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) copy: Copy,
    target: PathBuf,
}

/// A result, or the log of a build that failed.
pub(crate) type Built = Result<PathBuf, String>;

/// What tests said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// The first one that failed.
    Failed(String),
    /// They did not end in time.
    Hung,
    /// Why they say nothing.
    Unusable(String),
}

impl Workshop {
    /// Makes the copy, or brings it up to date.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let folder = root.join("target/mutants");
        fs::create_dir_all(folder.join("source"))?;
        let copy = Copy::update(root, folder.join("source"))?;
        Ok(Self { copy, target: folder.join("target") })
    }

    /// Returns a path of this name for an executable that no build replaces.
    pub(crate) fn kept(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.target.with_file_name("kept");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(name))
    }

    /// Copies an executable, with a fault in one of its scripts.
    pub(crate) fn exchange(&self, change: &Change, from: &Path, to: &Path) -> Result<(), Error> {
        let script = fs::read_to_string(self.copy.root.join(&change.file))?;
        script::exchange(from, to, &script, &change.applied(&self.copy.root)?)
    }

    /// Builds the server. The example has Cargo choose the features of dependencies as it does for the tests:
    /// others would have all of them built twice.
    pub(crate) fn build_binary(&self) -> Result<Built, Error> {
        self.build(&["build", "--bin", "markread", "--example", "mark_and_watch"], "markread")
    }

    /// Builds the unit tests.
    pub(crate) fn build_lib_tests(&self) -> Result<Built, Error> {
        self.build(&["test", "--no-run", "--lib"], "markread")
    }

    /// Builds the end-to-end tests.
    pub(crate) fn build_it_tests(&self) -> Result<Built, Error> {
        self.build(&["test", "--no-run", "--test", "it"], "it")
    }

    /// Builds a target, and returns its executable.
    fn build(&self, arguments: &[&str], target: &str) -> Result<Built, Error> {
        let built = Command::new("cargo")
            .args(arguments)
            .args(["--locked", "--message-format", "json-render-diagnostics"])
            .env("CARGO_TARGET_DIR", &self.target)
            .env_remove("CARGO_MANIFEST_DIR")
            .current_dir(&self.copy.root)
            .output()?;
        if !built.status.success() {
            return Ok(Err(String::from_utf8_lossy(&built.stderr).into_owned()));
        }
        let lines = String::from_utf8(built.stdout)?;
        let messages = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut executables = messages.filter_map(|message: serde_json::Value| {
            let is_target = message["target"]["name"] == target;
            message["executable"].as_str().filter(|_| is_target).map(PathBuf::from)
        });
        Ok(Ok(executables.next_back().ok_or("Cargo names no executable")?))
    }

    /// Runs tests of an executable, by their paths. End-to-end tests start the binary.
    pub(crate) fn run_tests(
        &self,
        executable: &Path,
        binary: Option<&Path>,
        tests: &[String],
    ) -> Result<Verdict, Error> {
        if tests.is_empty() {
            return Ok(Verdict::Passed);
        }
        let mut command = Command::new(executable);
        command.args(["--exact", "--test-threads=2"]).args(tests);
        command.env("CARGO_PKG_NAME", "markread").env("CARGO_MANIFEST_DIR", &self.copy.root);
        // Without it, the tests look for the server beside them.
        command.env_remove("CARGO_BIN_EXE_markread");
        command.envs(binary.map(|binary| ("CARGO_BIN_EXE_markread", binary)));
        command.current_dir(&self.copy.root).env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own: what the tests have started ends with them if they hang.
        let mut child = command.process_group(0).spawn()?;
        let Some(mut stdout) = child.stdout.take() else { return Err("no output".into()) };
        let output = thread::spawn(move || {
            let mut output = Vec::new();
            stdout.read_to_end(&mut output).map(|_| output)
        });
        let Some(status) = wait(&mut child)? else { return Ok(Verdict::Hung) };
        let output = output.join().map_err(|_| "the output cannot be read")??;
        Ok(verdict(status.code(), &String::from_utf8_lossy(&output), tests.len()))
    }
}

/// Waits for the end of a process. Returns its status, or `None` if it was too late and was killed.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>, Error> {
    let started = Instant::now();
    while started.elapsed() < TESTS_TIMEOUT {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
    child.wait()?;
    Ok(None)
}

/// Reads what libtest printed of so many tests.
fn verdict(code: Option<i32>, output: &str, tests: usize) -> Verdict {
    let results = || output.lines().filter_map(|line| line.strip_prefix("test "));
    if let Some(test) = results().find_map(|result| result.strip_suffix(" ... FAILED")) {
        return Verdict::Failed(test.to_owned());
    }
    let passed = results().filter(|result| result.ends_with(" ... ok")).count();
    match code {
        Some(0) if passed == tests => Verdict::Passed,
        Some(0) => Verdict::Unusable(format!("of {tests} tests {passed} were run")),
        _ => Verdict::Unusable(format!("the tests ended with {code:?} and no result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_failed_has_found_a_fault() {
        let failed = Verdict::Failed("a::b".to_owned());
        let is_unusable = |verdict| matches!(verdict, Verdict::Unusable(_));
        assert_eq!(verdict(Some(101), "test c ... ok\ntest a::b ... FAILED\n", 2), failed);
        assert_eq!(verdict(Some(0), "test a::b ... ok\n", 1), Verdict::Passed);
        assert!(is_unusable(verdict(Some(0), "running 0 tests\n", 1)));
        assert!(is_unusable(verdict(Some(0), "test a::b ... ok\n", 2)));
        assert!(is_unusable(verdict(Some(101), "", 1)));
        assert!(is_unusable(verdict(None, "test a::b ... ok\n", 1)));
    }
}
