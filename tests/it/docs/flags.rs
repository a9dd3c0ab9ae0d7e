//! `docs/configuration.md` against `markread COMMAND --help`.

use std::collections::BTreeMap;

use super::{Table, code, configuration, contract, plain};
use crate::command_line::refused;
use crate::traces::settings::warned;
use markread_harness::binary::command;

/// Flags by name, with the variable and the default of each.
type Flags = BTreeMap<String, (String, String)>;

/// Where there is no default.
const NO_DEFAULT: &str = "none";

/// Where there is no variable.
const FLAG_ALONE: &str = "none";

async fn help(command_name: &[&str]) -> String {
    let output = command(command_name).arg("--help").output().await.unwrap();
    assert!(output.status.success(), "{command_name:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Commands that have commands.
const GROUPS: [&str; 2] = ["admin", "webhook"];

/// The commands that `markread --help` lists, and those of [`GROUPS`].
async fn commands() -> Vec<String> {
    let mut commands = listed(&[]).await;
    commands.retain(|name| !GROUPS.contains(&&**name));
    for group in GROUPS {
        let of_group = listed(&[group]).await;
        commands.extend(of_group.into_iter().map(|name| format!("{group} {name}")));
    }
    commands
}

async fn listed(command_name: &[&str]) -> Vec<String> {
    let help = help(command_name).await;
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        // The rest of a text is further in.
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// What stands in brackets behind this word.
fn bracketed<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(&format!("[{word}: "))?;
    behind.split(']').next()
}

fn help_flags(help: &str) -> Flags {
    let (usage, options) = help.split_once("\nOptions:\n").expect("options");
    // A flag stands 6 characters in, what is said of it further.
    let options = format!("\n{options}");
    let options = options.split("\n      --").skip(1).map(|option| {
        let option = option.split("\n  -h").next().unwrap();
        let words: Vec<_> = option.split_whitespace().collect();
        let (name, text) = (format!("--{}", words[0]), words.join(" "));
        let default = match bracketed(&text, "default") {
            Some(default) => default,
            None if usage.contains(&format!("{name} <")) => "required",
            None => NO_DEFAULT,
        };
        let variable = bracketed(&text, "env").unwrap_or(FLAG_ALONE);
        (name, (variable.to_owned(), default.to_owned()))
    });
    options.collect()
}

/// The page's flags of a command: its tables stand below a heading that names it.
fn page_flags(command: &str) -> Flags {
    let mut flags = Flags::new();
    let named = format!("markread {command}");
    let of_command = |table: &Table<'_>| code(table.section).any(|text| text == named);
    for row in
        Table::all(configuration()).into_iter().filter(of_command).flat_map(|table| table.rows)
    {
        let Some(flag) = row.get("flag") else { continue };
        let default = match &*plain(row["default"]) {
            // A switch.
            "off" => NO_DEFAULT.to_owned(),
            other => other.to_owned(),
        };
        let known = flags.insert(plain(flag), (plain(row["variable"]), default));
        assert_eq!(known, None, "{command} {flag} stands in the page once");
    }
    flags
}

#[tokio::test]
async fn every_flag_stands_in_the_page_with_variable_and_default() {
    let commands = commands().await;
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        let from_help = help_flags(&help(&words).await);
        assert!(!from_help.is_empty(), "{command} has flags");
        assert_eq!(page_flags(&command), from_help, "the page, and --help of {command}");
        let alone: Vec<_> = from_help
            .iter()
            .filter(|(_, (variable, _))| variable == FLAG_ALONE)
            .map(|(flag, _)| flag.as_str())
            .collect();
        let expected: &[&str] = match &*command {
            "admin move" => &["--finish", "--follow", "--undo"],
            "admin erase" => &["--as-recipient", "--events", "--user"],
            "admin set" => &["--force", "--last-read-event-id", "--recipient", "--user"],
            "webhook subscribe" | "webhook unsubscribe" => &["--user", "--users-file"],
            "webhook redeliver" => &["--id", "--since", "--user"],
            "webhook receive" => &["--expect", "--listen", "--secret-file", "--timeout"],
            _ => &[],
        };
        assert_eq!(alone, expected, "the flags of {command} without a variable");
    }
}

#[tokio::test]
async fn the_contract_lists_every_command() {
    let listed: Vec<_> = Table::all(contract())
        .into_iter()
        .filter(|table| table.has("command"))
        .flat_map(|table| table.rows)
        .map(|row| plain(row["command"]))
        .collect();
    for command in commands().await {
        assert!(listed.contains(&format!("markread {command}")), "{command} in {listed:?}");
    }
}

/// A range in a cell, as in "0 to 1".
fn range(cell: &str) -> Option<String> {
    let words: Vec<_> = cell.split_whitespace().collect();
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    let range = words
        .windows(3)
        .find(|words| words[1] == "to" && is_number(words[0]) && is_number(words[2]));
    range.map(|words| words.join(" "))
}

/// The first command that a heading names.
fn command_of(section: &str) -> Vec<&str> {
    let named = code(section).next().and_then(|text| text.strip_prefix("markread "));
    named.unwrap_or("serve").split(' ').collect()
}

#[tokio::test]
async fn a_value_out_of_range_is_named_with_the_pages_range() {
    let otel = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1"),
    ];
    let mut ranges = 0;
    let rows = |table: Table<'static>| table.rows.into_iter().map(move |row| (table.section, row));
    for (section, row) in Table::all(configuration()).into_iter().flat_map(rows) {
        let Some(range) = row.get("allowed").and_then(|allowed| range(allowed)) else { continue };
        ranges += 1;
        let variable = plain(row["variable"]);
        let variables = [&otel[..], &[(&*variable, "nonsense")]].concat();
        let line = match row.get("flag") {
            Some(flag) => {
                let flag = format!("{}=nonsense", plain(flag));
                let mut command = command_of(section);
                command.push(&flag);
                refused(2, &command, &[]).await
            }
            None => warned(&variables).await,
        };
        assert!(line.contains(&format!("from {range}")), "{variable}: {range} is in: {line}");
    }
    assert!(ranges >= 14, "{ranges} ranges");
}
