//! Files that flags name: read at the start, and again when they change.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

mod pem;
mod watcher;

pub use self::pem::{
    certificates, private_key, read_certificates, read_client_identity, read_private_key,
};
pub use self::watcher::{FileWatcher, Reread, watch_contents};

/// Reads a file that a flag names.
///
/// # Errors
///
/// If it cannot be read or is empty. The text names the flag and the file.
pub fn read(flag: &str, file: &Path) -> Result<Vec<u8>, String> {
    let contents =
        fs::read(file).map_err(|error| problem(flag, file, &format!("cannot be read: {error}")))?;
    if contents.is_empty() {
        return Err(problem(flag, file, "is empty"));
    }
    Ok(contents)
}

/// Opens a file that is read again and again. Unlike `File::open` it never waits: a named pipe has no end until
/// somebody writes, and devices may block too.
///
/// # Errors
///
/// If it cannot be opened, or is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Returns the error text for a file: the flag, the file, and what is wrong with it.
pub fn problem(flag: &str, file: &Path, what: &str) -> String {
    format!("{flag} {} {what}", file.display())
}

/// Removes one newline, LF or CRLF, from the end of a secret: editors add it.
pub fn without_newline(mut contents: Vec<u8>) -> Vec<u8> {
    let secret = contents.strip_suffix(b"\n").unwrap_or(&contents);
    let is_crlf = secret.len() < contents.len() && secret.ends_with(b"\r");
    contents.truncate(secret.len() - usize::from(is_crlf));
    contents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe, link) =
            (dir.path().join("file"), dir.path().join("pipe"), dir.path().join("link"));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [&file, &link] {
            assert_eq!(io::read_to_string(open_regular(path).unwrap()).unwrap(), "text");
        }
        for path in [pipe.as_path(), dir.path(), Path::new("/dev/null"), Path::new("/dev/tty")] {
            assert!(open_regular(path).is_err(), "{path:?}");
        }
        let missing = open_regular(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn one_newline_is_not_part_of_a_secret() {
        for (contents, secret) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret\n\n", "secret\n"),
            ("secret\r\n\r\n", "secret\r\n"),
            ("secret\r", "secret\r"),
            ("\r\n", ""),
            ("\n", ""),
            ("", ""),
        ] {
            let stripped = without_newline(contents.into());
            assert_eq!(String::from_utf8(stripped).unwrap(), secret, "{contents:?}");
        }
    }
}
