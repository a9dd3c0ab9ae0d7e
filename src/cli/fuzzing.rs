//! What `tests/fuzz` reaches of the commands: their input, line by line.

use std::io::BufReader;

use super::commands::lines::Lines;

/// Reads all lines through a buffer of this size, which is not 0. Returns each one's number and text; `None`
/// for a line that is too long.
pub fn lines(input: &[u8], buffer_bytes: usize) -> Vec<(u64, Option<Vec<u8>>)> {
    let mut lines = Lines::new(BufReader::with_capacity(buffer_bytes, input));
    let mut all = Vec::new();
    while let Ok(true) = lines.next() {
        let text = (!lines.is_too_long()).then(|| lines.line.clone());
        all.push((lines.number, text));
    }
    all
}
