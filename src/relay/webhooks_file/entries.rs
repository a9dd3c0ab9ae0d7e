//! The file's text: one `[[webhook]]` table for each webhook.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::domain::WebhookName;
use crate::relay::webhook::Audience;

/// Webhooks in a file.
const WEBHOOKS_MAX: usize = 100;

/// Characters of the text that an error quotes.
const QUOTED_MAX_CHARS: usize = 40;

/// A webhook's table.
pub(in crate::relay) struct Entry {
    /// Its place in the file, from 1.
    pub number: usize,
    pub name: WebhookName,
    pub url: String,
    pub audience: Audience,
    pub echo: bool,
    pub proxy: Option<String>,
    /// The files that it names, by the member.
    pub files: BTreeMap<&'static str, PathBuf>,
    /// The line on which it begins, and those of its members.
    line: usize,
    lines: BTreeMap<String, usize>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs have keys in their queries, and passwords of proxies.
        f.debug_struct("Entry")
            .field("number", &self.number)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Returns the problem with a member, with where it is.
    pub(super) fn problem(&self, member: &str, what: &str) -> String {
        let Self { number, name, .. } = self;
        let line = self.lines.get(member).unwrap_or(&self.line);
        format!("is invalid at line {line}, [[webhook]] {number} \"{name}\": {member} {what}")
    }
}

/// Members of a webhook that name files.
const FILES: [&str; 6] = [
    "secret_file",
    "previous_secret_file",
    "standard_secret_file",
    "ca_file",
    "cert_file",
    "key_file",
];

/// Parses the file. Relative names of files in it are relative to `folder`.
///
/// # Errors
///
/// The line and the problem, as the end of a sentence. It quotes no value.
pub(in crate::relay) fn parse(contents: &[u8], folder: &Path) -> Result<Vec<Entry>, String> {
    // A file is empty for a moment while it is rewritten. A comment alone means no webhooks.
    if contents.is_empty() {
        return Err("is empty".to_owned());
    }
    let text = std::str::from_utf8(contents).map_err(|error| {
        let line = line(contents, error.valid_up_to());
        format!("is invalid at line {line}: it is not UTF-8 text")
    })?;
    let at = |span: Range<usize>, problem: &str| {
        format!("is invalid at line {}: {problem}", line(contents, span.start))
    };
    let file = DeTable::parse(text).map_err(|error| {
        // The parser's messages have no text of the file.
        at(error.span().unwrap_or_default(), error.message())
    })?;
    let mut tables: &[Spanned<DeValue<'_>>] = &[];
    for (key, value) in file.get_ref() {
        let is_webhook = key.get_ref() == "webhook";
        tables = value.get_ref().as_array().filter(|_| is_webhook).ok_or_else(|| {
            let found = quoted(key.get_ref());
            at(key.span(), &format!("{found}: it must have [[webhook]] tables and nothing else"))
        })?;
    }
    if tables.len() > WEBHOOKS_MAX {
        let found = tables.len();
        return Err(format!("has {found} webhooks: it must have at most {WEBHOOKS_MAX}"));
    }
    let mut names = HashSet::new();
    let mut entries = Vec::with_capacity(tables.len());
    for (index, table) in tables.iter().enumerate() {
        let line_of = |span: Range<usize>| line(contents, span.start);
        let entry = entry(index + 1, table, folder, &line_of)
            .map_err(|(span, problem)| at(span.unwrap_or(table.span()), &problem))?;
        if !names.insert(entry.name.clone()) {
            return Err(entry.problem("name", "is that of another webhook too"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// A problem, and where it is if not at the table's begin.
type Problem = (Option<Range<usize>>, String);

fn entry(
    number: usize,
    table: &Spanned<DeValue<'_>>,
    folder: &Path,
    line_of: &impl Fn(Range<usize>) -> usize,
) -> Result<Entry, Problem> {
    let invalid = || (None, "webhook must be a table: [[webhook]]".to_owned());
    let members = table.get_ref().as_table().ok_or_else(invalid)?;
    let (mut name, mut url, mut proxy) = (None, None, None);
    let (mut audience, mut echo) = (Audience::default(), false);
    let mut files = BTreeMap::new();
    for (key, value) in members {
        let problem = |what: &str| (Some(value.span()), format!("{} {what}", key.get_ref()));
        let text = || {
            let text = value.get_ref().as_str().filter(|text| !text.is_empty());
            text.ok_or_else(|| problem("must be a string that is not empty"))
        };
        match key.get_ref().as_ref() {
            "name" => name = Some(text()?.parse().map_err(|error| problem(&format!("{error}")))?),
            "url" => url = Some(text()?.to_owned()),
            "proxy" => proxy = Some(text()?.to_owned()),
            "users" => {
                audience = match text()? {
                    "all" => Audience::All,
                    "subscribed" => Audience::Subscribed,
                    _ => return Err(problem("must be \"all\" or \"subscribed\"")),
                }
            }
            "echo" => {
                let value = value.get_ref().as_bool();
                echo = value.ok_or_else(|| problem("must be true or false"))?;
            }
            other => {
                let member = FILES.into_iter().find(|member| *member == other);
                let member = member.ok_or_else(|| {
                    (Some(key.span()), format!("{} is not a member of a webhook", quoted(other)))
                })?;
                files.insert(member, folder.join(text()?));
            }
        }
    }
    let missing = |member: &str| (None, format!("[[webhook]] {number} has no {member}"));
    let has = |member| files.contains_key(member);
    if !has("secret_file") {
        return Err(missing("secret_file"));
    }
    if has("cert_file") != has("key_file") {
        let problem = format!("[[webhook]] {number}: cert_file and key_file must be set together");
        return Err((None, problem));
    }
    Ok(Entry {
        number,
        name: name.ok_or_else(|| missing("name"))?,
        url: url.ok_or_else(|| missing("url"))?,
        audience,
        echo,
        proxy,
        files,
        line: line_of(table.span()),
        lines: members
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), line_of(value.span())))
            .collect(),
    })
}

/// Returns the number of the line with a byte, from 1.
fn line(contents: &[u8], at: usize) -> usize {
    contents.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Returns text of the file for an error: escaped, and not long.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX_CHARS) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
