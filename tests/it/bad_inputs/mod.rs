//! `docs/bad-inputs.md`: every kind of bad input, and the answer that a server or a command gave.
//!
//! The page is generated: each test sends the inputs of one section and compares what came back with the
//! committed rows. With `MARKREAD_TEST_WRITE_DOCS=1` the sections are written in place of that.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use markread::proto::codes::code_name;
use markread_harness::Redis;
use markread_harness::raw::{RawAnswer, error_codes};
use markread_harness::tools::file;

mod commands;
mod contents;
mod credentials;
mod files;
mod form;
mod framing;
mod heads;
mod key_sets;
mod messages;
mod oauth;
mod operators;

/// Set to write the page instead of comparing it.
const WRITE: &str = "MARKREAD_TEST_WRITE_DOCS";

/// The sections in the order of the page.
const ORDER: [&str; 15] = [
    "Messages of gRPC",
    "Bytes of a gRPC call",
    "Heads of a gRPC call",
    "Parameters of the form",
    "Heads of the form",
    "Malformed HTTP/1.1",
    "Bearer tokens and users",
    "OAuth signatures",
    "Key sets",
    "Operators' port",
    "Values in Redis",
    "Lines of an import",
    "Webhook files",
    "Credentials files",
    "Commands on a Redis",
];

/// Held while the page is read and written: tests run side by side.
static PAGE: Mutex<()> = Mutex::new(());

fn page_path() -> PathBuf {
    file("docs/bad-inputs.md")
}

/// A section of the page.
struct Section {
    heading: &'static str,
    text: String,
}

impl Section {
    /// A section with a table: its heading, what its inputs have in common, and the columns.
    fn new(heading: &'static str, about: &str, columns: &[&str]) -> Self {
        assert!(ORDER.contains(&heading), "{heading} has a place on the page");
        let dashes = vec!["---"; columns.len()];
        let mut section = Self { heading, text: format!("## {heading}\n\n{}\n\n", wrapped(about)) };
        section.line(columns);
        section.line(&dashes);
        section
    }

    /// Adds an input, and what came back.
    fn row(&mut self, cells: &[&str]) {
        for cell in cells {
            assert!(!cell.contains(['|', '\n']), "a cell of a table: {cell:?}");
        }
        self.line(cells);
    }

    fn line(&mut self, cells: &[&str]) {
        self.text += "| ";
        self.text += &cells.join(" | ");
        self.text += " |\n";
    }

    /// Compares the section with the page, or writes it there.
    fn check(self) {
        let _held = PAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let page = fs::read_to_string(page_path()).unwrap();
        if std::env::var_os(WRITE).is_some() {
            fs::write(page_path(), with_section(&page, &self)).unwrap();
            return;
        }
        let committed = sections(&page).1;
        let committed = committed.iter().find(|(heading, _)| *heading == self.heading);
        let committed = committed.map_or("", |(_, text)| text.trim_end());
        for (new, old) in self.text.trim_end().lines().zip(committed.lines()) {
            assert_eq!(new, old, "docs/bad-inputs.md, {}: {WRITE}=1 writes it", self.heading);
        }
        assert_eq!(self.text.trim_end(), committed, "docs/bad-inputs.md, {}", self.heading);
    }
}

/// A text in lines as long as those of the other pages.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 118;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

/// The head of the page, and its sections by their headings.
fn sections(page: &str) -> (&str, Vec<(&str, &str)>) {
    let starts: Vec<_> = page.match_indices("\n## ").map(|(at, _)| at + 1).collect();
    let ends = starts.iter().skip(1).copied().chain([page.len()]);
    let texts = starts.iter().zip(ends).map(|(start, end)| &page[*start..end]);
    let named = texts.map(|text| (text.lines().next().unwrap().trim_start_matches("## "), text));
    (&page[..starts.first().copied().unwrap_or(page.len())], named.collect())
}

/// The number of inputs of a page: the rows of its sections.
fn inputs(page: &str) -> usize {
    let (_, sections) = sections(page);
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count() - 2;
    sections.into_iter().map(|(_, text)| rows(text)).sum()
}

/// The page with this section in its place, and the number of its inputs in the head.
fn with_section(page: &str, section: &Section) -> String {
    let (head, known) = sections(page);
    let text_of = |heading: &str| {
        let known = known.iter().find(|(known, _)| *known == heading);
        if heading == section.heading { Some(section.text.as_str()) } else { known.map(|it| it.1) }
    };
    let texts: Vec<_> = ORDER.into_iter().filter_map(text_of).map(str::trim_end).collect();
    let (before, after) = head.split_once("**").expect("the head has a number");
    let (_, after) = after.split_once("**").expect("the number ends");
    let body = texts.join("\n\n");
    let count = inputs(&format!("\n{body}\n"));
    format!("{before}**{count}**{after}{body}\n")
}

#[test]
fn the_page_has_every_section_and_says_how_many_inputs_they_are() {
    let page = fs::read_to_string(page_path()).unwrap();
    let (head, sections) = sections(&page);
    assert!(sections.iter().map(|(heading, _)| *heading).eq(ORDER));
    let count = inputs(&page);
    assert!(count >= 130, "{count} inputs");
    assert!(head.contains(&format!("**{count}** inputs")), "{count} inputs: {head}");
    let lines = include_str!("../command_line/messages.txt").lines();
    let more = lines.filter(|line| line.starts_with("$ ")).count();
    assert!(head.contains(&format!("{more} wrong command lines")), "{more} command lines: {head}");
}

/// Asserts that refused inputs left nothing in Redis but these keys, beside the layout.
async fn assert_keys(redis: &Redis, others: &[&str]) {
    let mut keys: Vec<String> = redis.run("KEYS *").await;
    keys.sort();
    let mut expected = [&["markread:layout"], others].concat();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

/// A text as code, with what cannot be seen escaped.
fn code(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '|' | '\u{7f}'.. => c.escape_unicode().to_string(),
            '"' | '\'' => c.to_string(),
            c => c.escape_debug().to_string(),
        })
        .collect();
    if escaped.contains('`') { format!("`` {escaped} ``") } else { format!("`{escaped}`") }
}

/// The answer to a gRPC request: its status, or the HTTP answer that it got instead.
fn grpc(answer: &Result<RawAnswer, h2::Error>) -> String {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return reset(error),
    };
    if answer.status != 200 {
        return http(answer);
    }
    let status = answer.grpc_status();
    if status.code() == tonic::Code::Ok {
        return "OK".to_owned();
    }
    let refusal = answer.refusal();
    let text = match refusal.reason.as_str() {
        "" => format!("`{}`", code_name(status.code())),
        reason => format!("`{}` `{reason}`", code_name(status.code())),
    };
    let violations = refusal.details.bad_request().map(|it| &it.field_violations[..]);
    let fields: Vec<_> =
        violations.unwrap_or_default().iter().map(|it| format!("`{}`", it.field)).collect();
    match fields.len() {
        0 => text,
        1..4 => format!("{text}: {}", fields.join(", ")),
        many => format!("{text}: {}, … ({many} fields)", fields[0]),
    }
}

/// The end of a stream, or of its connection.
fn reset(error: &h2::Error) -> String {
    let reason = error.reason().map_or_else(|| "closed".to_owned(), |it| format!("{it:?}"));
    let what = if error.is_go_away() { "GOAWAY" } else { "stream reset" };
    format!("{what} `{reason}`")
}

/// The answer to an HTTP request: the status, and the codes of its errors.
fn http(answer: &RawAnswer) -> String {
    let body = std::str::from_utf8(&answer.body).unwrap();
    status_and_codes(answer.status.as_u16(), body)
}

fn status_and_codes(status: u16, body: &str) -> String {
    if body.is_empty() {
        return format!("{status}");
    }
    let codes = error_codes(body);
    let codes: Vec<_> = codes.iter().map(u64::to_string).collect();
    let word = if codes.len() == 1 { "code" } else { "codes" };
    format!("{status}, {word} {}", codes.join(", "))
}
