//! `markread token`: a signed token for development.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::config::TokenConfig;
use crate::identity::jwt;

/// Signs a token. Returns it, unless it was written to a file.
///
/// # Errors
///
/// The problem, in one line.
pub(crate) fn run(config: TokenConfig) -> Result<Option<String>, String> {
    let TokenConfig { user, secret, ttl, output, expected } = config;
    let token = jwt::issue(user, &secret, ttl, expected).map_err(|error| error.to_string())?;
    let Some(file) = output else { return Ok(Some(token)) };
    write_secret(&file, &token)
        .map_err(|error| format!("--output {} cannot be written: {error}", file.display()))?;
    Ok(None)
}

/// Writes a line to a file that only its owner can read.
fn write_secret(file: &Path, secret: &str) -> io::Result<()> {
    // An existing file may be readable to others, and would stay so.
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{secret}")
}
