//! Input of commands, line by line in bounded memory.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

/// Longest line, in bytes. An exported cursor has at most 160.
pub(super) const LINE_MAX_BYTES: usize = 4096;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where lines are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// An open source.
pub(super) enum Input {
    Stdin,
    File(File),
}

impl InputSource {
    /// Returns the source that a path names: `-` is standard input.
    pub(in crate::cli) fn new(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path) }
    }

    /// Opens it. Returns its length too, if it is known.
    pub(super) fn open(&self) -> io::Result<(Input, Option<u64>)> {
        let path = match self {
            Self::Stdin => return Ok((Input::Stdin, None)),
            Self::File(path) => path,
        };
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok((Input::File(file), metadata.is_file().then_some(metadata.len())))
    }
}

impl Input {
    /// Returns what reads it.
    pub(super) fn buffered(self) -> BufReader<Box<dyn Read>> {
        let input: Box<dyn Read> = match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::File(file) => Box::new(file),
        };
        BufReader::with_capacity(BUFFER_BYTES, input)
    }
}

impl fmt::Display for InputSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The lines of an input, of which it holds one at a time.
#[derive(Debug)]
pub(in crate::cli) struct Lines<R> {
    input: R,
    /// The line, up to one byte more than the longest.
    pub(in crate::cli) line: Vec<u8>,
    /// Its number, from 1.
    pub(in crate::cli) number: u64,
    /// The position behind it, in bytes.
    pub(super) position: u64,
}

impl<R: BufRead> Lines<R> {
    /// Creates it at the beginning of an input.
    pub(in crate::cli) fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0, position: 0 }
    }

    /// Returns whether the line is longer than it may be, and only its beginning is held.
    pub(in crate::cli) fn is_too_long(&self) -> bool {
        self.line.len() > LINE_MAX_BYTES
    }

    /// Reads the next line. Returns whether there is one.
    pub(in crate::cli) fn next(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut is_any = false;
        loop {
            let available = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = end.map_or(available, |end| &available[..end]);
            let room = (LINE_MAX_BYTES + 1).saturating_sub(self.line.len());
            self.line.extend(part.iter().take(room));
            let read = part.len() + usize::from(end.is_some());
            is_any |= read > 0;
            self.input.consume(read);
            self.position += u64::try_from(read).unwrap_or(u64::MAX);
            if end.is_some() || read == 0 {
                self.number += u64::from(is_any);
                return Ok(is_any);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_line_only_the_beginning_is_held() {
        let text = format!("{}\nx", "x".repeat(1_000_000));
        let mut lines = Lines::new(text.as_bytes());
        assert!(lines.next().unwrap() && lines.is_too_long());
        assert_eq!(lines.line.len(), LINE_MAX_BYTES + 1);
        assert!(lines.next().unwrap() && !lines.is_too_long());
        assert_eq!((&lines.line[..], lines.number), (&b"x"[..], 2));
        assert!(!lines.next().unwrap() && lines.number == 2);
    }
}
