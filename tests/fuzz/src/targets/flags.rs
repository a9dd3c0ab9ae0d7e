//! Values of flags: durations, sizes, numbers, addresses.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use markread::cli::{Exit, parse};

use crate::input::assert_loggable;

/// Flags of each kind.
const FLAGS: [&str; 8] = [
    "--call-timeout",
    "--memory-limit",
    "--rate-limit",
    "--listen",
    "--redis-url",
    "--rate-window",
    "--user-object-max-bytes",
    "--edge-rate",
];

/// A flag by the first byte, and its value: it is taken, or refused in one line that names the flag.
pub(super) fn flags(data: &[u8]) {
    let Some((flag, value)) = data.split_first() else { return };
    let flag = FLAGS[usize::from(*flag) % FLAGS.len()];
    let value = OsString::from_vec(value.iter().copied().filter(|byte| *byte != 0).collect());
    let args = ["markread", "serve", "--dev", flag].map(OsString::from);
    if let Err(exit) = parse(args.into_iter().chain([value])) {
        let Exit::Usage(problem) = exit else { return };
        assert_loggable(&problem);
        assert!(problem.contains("--") || problem.contains("UTF-8"), "{problem}");
    }
}
