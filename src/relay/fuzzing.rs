//! What `tests/fuzz` reaches of the relay: the webhooks file, URLs, secrets, and what receivers answer.

use std::path::Path;
use std::time::Duration;

use http::HeaderMap;

use super::http::proxy::Proxy;
use super::http::response;
use super::http::target::Target;
use super::signature;
use super::webhook::Targets;
use super::webhooks_file::entries;

/// Parses a webhooks file. Returns the names of its webhooks.
///
/// # Errors
///
/// The line and the problem.
pub fn webhooks(contents: &[u8]) -> Result<Vec<String>, String> {
    let entries = entries::parse(contents, Path::new("/"))?;
    Ok(entries.into_iter().map(|entry| entry.name.to_string()).collect())
}

/// Parses a webhook's URL. Returns its one spelling, and the URL with a token of a check.
///
/// # Errors
///
/// What is wrong with it.
pub fn target(url: &str, targets: Targets) -> Result<(String, Option<String>), String> {
    let target = Target::parse(url, targets)?;
    let checked = target.uri_with("crc_token", "token").map(|uri| uri.to_string());
    Ok((target.as_str().to_owned(), checked))
}

/// Parses a proxy's URL.
///
/// # Errors
///
/// What is wrong with it.
pub fn proxy(url: &str) -> Result<(), String> {
    Proxy::parse(url).map(|_| ())
}

/// Parses a secret of Standard Webhooks.
pub fn standard_secret(text: &str) -> Option<Vec<u8>> {
    signature::parse_standard_secret(text)
}

/// Returns how long a receiver asks to wait.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    response::retry_after(headers)
}
