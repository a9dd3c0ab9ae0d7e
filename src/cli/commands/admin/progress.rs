//! Progress on a terminal.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;

/// Time between two looks of the bar.
const TICK: Duration = Duration::from_millis(200);

/// A progress bar on standard error; nothing, if that is not a terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Creates a bar for work of this length; `None` if it is not known.
    pub(super) fn new(length: Option<u64>) -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let (bar, template) = match length {
            Some(length) => (
                ProgressBar::new(length),
                "{bar:30} {percent:>3} %  {elapsed_precise}, {eta} left: {msg}",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {elapsed_precise}: {msg}"),
        };
        // Only an invalid template fails, and the default look will do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Shows how much is done.
    pub(super) fn set(&self, position: u64, message: impl FnOnce() -> String) {
        self.0.set_position(position);
        if !self.0.is_hidden() {
            self.0.set_message(message());
        }
    }

    /// Returns whether it is not shown, since standard error is not a terminal.
    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// Says something above the bar.
    pub(super) fn say(&self, line: &str) {
        self.0.suspend(|| say(line));
    }
}

/// Removes the bar, also where a command ends early.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Length of a bar over a SCAN.
pub(super) const SCAN_LENGTH: u64 = 1 << 20;

/// Returns the position of the SCANs of all nodes on such a bar, by their cursors; `None`: it is done.
pub(super) fn scans_position(scans: &[Option<u64>]) -> u64 {
    let position = |scan: &Option<u64>| match scan {
        // One that has not begun is not at the end.
        Some(0) => 0,
        Some(cursor) => scan_position(*cursor),
        None => SCAN_LENGTH,
    };
    let nodes = u64::try_from(scans.len()).unwrap_or(u64::MAX).max(1);
    scans.iter().map(position).sum::<u64>() / nodes
}

/// Returns the position of a SCAN over all keys on such a bar. Redis counts a cursor up from its highest
/// bit, so that the reversed one is the part of the table that was seen.
fn scan_position(cursor: u64) -> u64 {
    if cursor == 0 { SCAN_LENGTH } else { cursor.reverse_bits() >> (64 - SCAN_LENGTH.ilog2()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cursors of a table of 16 slots, in Redis's order.
    #[test]
    fn the_position_of_a_scan_rises_to_the_end() {
        let cursors = [8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15, 0];
        let positions = cursors.map(|cursor: u64| scan_position(cursor << 60 >> 60));
        assert!(positions.is_sorted(), "{positions:?}");
        assert_eq!(positions[15], SCAN_LENGTH);
        assert_eq!(scans_position(&[None, Some(0)]), SCAN_LENGTH / 2);
        assert_eq!(scans_position(&[]), 0);
    }
}
