//! Faults in Redis scripts. An executable has the texts of the scripts, so they are exchanged in it, which
//! takes a second; a build takes minutes.

use std::fs;
use std::path::Path;

use crate::Error;

/// Returns whether a file is one of the scripts.
pub(crate) fn is_script(file: &str) -> bool {
    file.starts_with("src/store/redis/scripts/")
        && Path::new(file).extension().is_some_and(|extension| extension == "lua")
}

/// Copies an executable, with another text wherever it has this one.
pub(crate) fn exchange(from: &Path, to: &Path, old: &str, new: &str) -> Result<(), Error> {
    let new =
        fit(new, old.len()).ok_or("the script has too few comments to make room for the fault")?;
    let mut bytes = fs::read(from)?;
    let mut found = 0;
    let mut at = 0;
    while let Some(offset) = find(&bytes[at..], old.as_bytes()) {
        at += offset;
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
        at += old.len();
        found += 1;
    }
    if found == 0 {
        return Err(format!("{} does not have the script as it is", from.display()).into());
    }
    // A file that runs cannot be written to.
    let _ = fs::remove_file(to);
    fs::copy(from, to)?;
    fs::write(to, bytes)?;
    Ok(())
}

/// Returns a script of this length that does the same: without comments of its head, and with spaces.
fn fit(script: &str, length: usize) -> Option<String> {
    let mut rest = script;
    while rest.len() > length {
        let (comment, others) = rest.split_once('\n')?;
        if !comment.starts_with("--") {
            return None;
        }
        rest = others;
    }
    // At the end of a line: the next file is joined right behind it.
    let line = rest.strip_suffix('\n')?;
    Some(format!("{line}{}\n", " ".repeat(length - rest.len())))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted.first()?;
    let mut at = 0;
    while let Some(offset) = bytes[at..].iter().position(|byte| byte == first) {
        at += offset;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "-- What it does.\n-- More of that.\nreturn 1\n";

    #[test]
    fn a_script_makes_room_for_a_fault_by_its_comments() {
        let longer = SCRIPT.replace("return 1", "return 1 + 22222");
        let fitted = fit(&longer, SCRIPT.len()).unwrap();
        assert_eq!(fitted.trim_end(), "-- More of that.\nreturn 1 + 22222");
        let shorter = SCRIPT.replace("return 1", "");
        assert_eq!(fit(&shorter, SCRIPT.len()).unwrap().trim_end(), shorter.trim_end());
        for fitted in [fitted, fit(&shorter, SCRIPT.len()).unwrap()] {
            assert_eq!(fitted.len(), SCRIPT.len());
            assert!(fitted.ends_with(" \n"));
        }
        let far_longer = SCRIPT.replace('1', &"1".repeat(100));
        assert_eq!(fit(&far_longer, SCRIPT.len()), None);
    }

    #[test]
    fn every_copy_in_an_executable_is_exchanged_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let binary = |script: &str| format!("\0--{script}\0--{script}--\n");
        fs::write(&from, binary(SCRIPT)).unwrap();
        let fault = SCRIPT.replace("return 1", "return 2");
        exchange(&from, &to, SCRIPT, &fault).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), binary(&fault));
        assert!(exchange(&to, &from, SCRIPT, &fault).is_err());
    }
}
