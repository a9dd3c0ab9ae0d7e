//! `markread admin`: cursors that operators print, set, erase and move from one Redis to another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use markread::domain::RateLimit;
use markread_harness::binary::command;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::command_line::Files;
use crate::placement::{picked, redis_of};
use crate::stores::{LIMIT, Subject, mark};

mod access;
mod cluster;
mod erase;
mod export;
mod import;
mod move_cursors;
mod set;

const MANY: RateLimit = RateLimit { calls: 1_000_000, ..LIMIT };

/// Longer than any of these commands takes here.
const ENDS: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Asserts that it succeeded, and returns what it printed.
    fn done(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts that it failed with status 1, and returns its last line.
    fn failed(self) -> String {
        assert_eq!(self.status, Some(1), "{self:?}");
        let line = self.stderr.lines().last().unwrap().to_owned();
        assert!(line.starts_with("markread: "), "{line}");
        line
    }

    /// What it said before a last line about its failure.
    fn said(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| !line.starts_with("markread: ")).collect()
    }
}

fn admin_command(url: &str, words: &[&str]) -> Command {
    command(&[&["admin"], words, &["--redis-url", url]].concat())
}

/// Runs a command of `markread admin` to its end.
async fn admin(redis: &Redis, words: &[&str]) -> Ended {
    ended(admin_command(&redis.url(), words)).await
}

async fn ended(command: Command) -> Ended {
    ended_within(ENDS, command).await
}

async fn ended_within(limit: Duration, mut command: Command) -> Ended {
    let output = timeout(limit, command.output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Imports these lines.
async fn import(redis: &Redis, lines: &str) -> Ended {
    let files = Files::new();
    let file = files.write("cursors.jsonl", lines);
    admin(redis, &["import", &file]).await
}

/// A line of JSON, with a newline.
fn line(reader: u64, recipient: u64, message: u64, read_at_ms: u64) -> String {
    format!(
        "{{\"reader_id\":\"{reader}\",\"recipient_id\":\"{recipient}\",\
         \"last_read_event_id\":\"{message}\",\"read_at_ms\":{read_at_ms}}}\n"
    )
}

/// All exported lines, none of which is there twice.
async fn exported(redis: &Redis) -> BTreeSet<String> {
    lines(&admin(redis, &["export"]).await.done())
}

fn lines(text: &str) -> BTreeSet<String> {
    let lines: BTreeSet<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), text.lines().count(), "no line is there twice");
    lines
}

/// Marks a message of these conversations of a reader, in batches.
async fn mark_all(subject: &Subject, reader: u64, recipients: impl Iterator<Item = u64>) {
    let marks: Vec<_> = recipients.map(|to| mark(reader, to, MESSAGE - to % 1000)).collect();
    for marks in marks.chunks(500) {
        let outcomes = subject.store().mark_read_all(marks, None).await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok));
    }
}

/// A Redis with this version of the layout, and readers with few and many cursors: as many as each
/// reader's ID says, and one with recipients that share a bucket in the plain placement.
async fn filled(version: u8) -> (Arc<Redis>, Subject) {
    let redis = redis_of(version).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    for conversations in [1, 2, 64, 65, 1_000] {
        mark_all(&subject, conversations, 1..=conversations).await;
    }
    mark_all(&subject, READER, (0..600).map(picked)).await;
    (redis, subject)
}

/// The cursors that [`filled`] sets.
const FILLED: usize = 1 + 2 + 64 + 65 + 1_000 + 600;
