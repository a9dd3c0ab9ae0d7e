//! Commands of operators, whose arguments are valid and do not fit what is in Redis; and lines to import.

use markread_harness::Redis;

use super::files::ended;
use super::{Section, assert_keys, code};
use crate::command_line::Files;

const LINE: &str =
    "{\"reader_id\":\"1\",\"recipient_id\":\"2\",\"last_read_event_id\":\"3\",\"read_at_ms\":4}";

/// Lines that are not a cursor: what is wrong with each, and the line.
fn lines() -> Vec<(String, String)> {
    let changed = |from: &str, to: &str| {
        assert!(LINE.contains(from), "{from}");
        (format!("{} for {}", code(to), code(from)), LINE.replace(from, to))
    };
    let no_reader = LINE.replace("\"reader_id\":\"1\",", "");
    vec![
        ("`x`".to_owned(), "x".to_owned()),
        ("`{`".to_owned(), "{".to_owned()),
        ("`[1]`".to_owned(), "[1]".to_owned()),
        ("`null`".to_owned(), "null".to_owned()),
        ("a character of control".to_owned(), "\u{1b}[2J".to_owned()),
        ("5,000 characters".to_owned(), "y".repeat(5_000)),
        ("two objects in a line".to_owned(), format!("{LINE}{LINE}")),
        changed("\"1\"", "\"0\""),
        changed("\"1\"", "\"01\""),
        changed("\"1\"", "-1"),
        changed("\"1\"", "null"),
        changed("\"2\"", "\"9223372036854775808\""),
        changed("\"2\"", "\"me\""),
        changed("\"3\"", "3.0"),
        changed("\"3\"", "3e0"),
        changed(":4", ":-4"),
        changed(":4", ":\"x\""),
        changed("read_at_ms", "time"),
        ("no `reader_id`".to_owned(), no_reader),
        changed("\"reader_id\":\"1\",", "\"reader_id\":\"1\",\"reader_id\":\"1\","),
    ]
}

#[tokio::test]
async fn lines_of_an_import() {
    let mut section = Section::new(
        "Lines of an import",
        "A file of one good line and this one, to `markread admin import`: the good line is imported, this one is not, \
         and the exit status is 1.",
        &["the line has", "what is said"],
    );
    let redis = Redis::start().await;
    let files = Files::new();
    let good = LINE.replace("\"2\"", "\"8\"");
    for (what, line) in lines() {
        redis.run::<redis::Value>("FLUSHALL").await;
        let file = files.write("cursors.jsonl", format!("{good}\n{line}\n"));
        let url = redis.url();
        let output =
            markread_harness::binary::command(&["admin", "import", &file, "--redis-url", &url]);
        let (status, said) = said(output).await;
        assert_eq!(status, 1, "{what}: {said:?}");
        let named = said.iter().find(|said| said.starts_with("line ")).expect("the line is named");
        section.row(&[&what, &code(named)]);
        assert_keys(&redis, &["markread:cursors:1"]).await;
        assert_eq!(redis.cursors(1).await, [(8, 3)].into(), "{what}");
    }
    section.check();
}

/// The exit status and all lines of a command.
async fn said(mut command: tokio::process::Command) -> (i32, Vec<String>) {
    let output = command.output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), stderr.lines().map(str::to_owned).collect())
}

/// A layout, without which commands refuse a Redis.
const LAYOUT: &str = "HSET markread:layout version 1 partitions 1";

/// What is in Redis before, beside the layout, and the command.
const COMMANDS: [(&str, &str); 14] = [
    ("HSET markread:cursors:7 2 9 -2 1", "admin set --user 7 --recipient 2 --last-read-event-id 8"),
    ("HSET markread:cursors:7 2 x -2 1", "admin cursors --user 7"),
    ("SET markread:cursors:7 text", "admin cursors --user 7"),
    ("SET markread:cursors:7 text", "admin export"),
    ("SET markread:cursors:7 text", "admin set --user 7 --recipient 2 --last-read-event-id 8"),
    ("", "admin import absent.jsonl"),
    ("SET markread:subscriptions:crm text", "webhook list crm"),
    ("SET markread:subscriptions:crm text", "webhook subscribe crm 1"),
    ("", "webhook subscribe crm --users-file absent"),
    ("", "webhook subscribe crm --users-file users"),
    ("", "webhook list a/b"),
    ("", "webhook redeliver other --webhooks hooks.toml"),
    ("", "webhook check other --webhooks hooks.toml"),
    ("SET markread:dead_letters:crm text", "webhook redeliver crm --webhooks hooks.toml"),
];

/// Layouts that a command does not work on, and the command.
const LAYOUTS: [(&str, &str); 4] = [
    ("", "admin cursors --user 7"),
    ("", "admin move --to redis://localhost:1"),
    ("HSET markread:layout version 9 partitions 1", "admin export"),
    ("HSET markread:layout version 1 partitions 64", "webhook list crm"),
];

#[tokio::test]
async fn commands_on_a_redis() {
    let mut section = Section::new(
        "Commands on a Redis",
        "Operators' commands whose arguments do not fit what is there. `users` is a file with the line `x`, \
         `hooks.toml` has the webhook `crm`. But for the last four there is a layout.",
        &["in Redis", "command", "exit status", "what is said last"],
    );
    let files = Files::new();
    files.write("secret", "a consumer secret");
    files.write("users", "x\n");
    files.write(
        "hooks.toml",
        "[[webhook]]\nname = \"crm\"\nurl = \"https://crm.example/\"\nsecret_file = \"secret\"\n",
    );
    let redis = Redis::start().await;
    let url = redis.url();
    let on_layouts = LAYOUTS.map(|(layout, line)| ("", layout, line));
    for (layout, before, line) in
        COMMANDS.map(|(before, line)| (LAYOUT, before, line)).into_iter().chain(on_layouts)
    {
        redis.run::<redis::Value>("FLUSHALL").await;
        if !layout.is_empty() {
            redis.run::<redis::Value>(layout).await;
        }
        if !before.is_empty() {
            redis.run::<redis::Value>(before).await;
        }
        let words: Vec<_> = line.split(' ').chain(["--redis-url", &url]).collect();
        let (status, said) = ended(&files.path(""), &words).await;
        let said = said.replace(&url, "<url>").replace(&url["redis://".len()..], "<address>");
        let before = match (layout, before) {
            ("", "") => "nothing".to_owned(),
            (_, "") => "a layout".to_owned(),
            (_, before) => code(before),
        };
        let said = if said.is_empty() { "nothing".to_owned() } else { code(&said) };
        section.row(&[&before, &format!("`markread {line}`"), &status.to_string(), &said]);
    }
    section.check();
}
