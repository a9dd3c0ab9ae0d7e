//! Files that flags name: read, with errors that name both.

use std::fs;
use std::path::Path;

mod reread;

pub use self::reread::Reread;

/// Reads a file.
///
/// # Errors
///
/// When it cannot be read, or is empty.
pub fn read(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    let contents =
        fs::read(file).map_err(|error| about(flag, file, &format!("cannot be read: {error}")))?;
    if contents.is_empty() {
        return Err(about(flag, file, "is empty"));
    }
    Ok(contents)
}

/// What is wrong with a file, with the flag in front.
pub fn about(flag: &str, file: &Path, problem: &str) -> String {
    format!("{flag} {} {problem}", file.display())
}

/// A secret without the newline that an editor puts at the end of its file.
pub fn without_newline(mut contents: Vec<u8>) -> Vec<u8> {
    if contents.last() == Some(&b'\n') {
        contents.pop();
    }
    contents
}
