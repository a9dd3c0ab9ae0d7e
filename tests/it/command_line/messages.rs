//! Every kind of wrong setting: its message names the thing, what is wrong, and what is allowed.

use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use markread_harness::binary::command;
use markread_harness::openssl;

/// Commands and messages, two lines each.
const TABLE: &str = include_str!("messages.txt");

/// The one command of the table that fails for another reason than its settings.
const FAILS_LATER: &str = "--output /no/file";

async fn write_files(dir: &Path) {
    let credential = "[[credential]]\nconsumer_key = \"a\"\n";
    let secrets = "consumer_secret = \"b\"\naccess_token = \"c\"\naccess_token_secret = \"d\"\n";
    let webhook = "[[webhook]]\nname = \"crm\"\nurl = \"https://crm.example/events\"\n";
    for (name, contents) in [
        ("empty", Vec::new()),
        ("text", b"hello\n".to_vec()),
        ("bytes", vec![0xff]),
        ("short", vec![b'x'; 31]),
        ("secret", vec![b'x'; 32]),
        ("newline", b"\r\n".to_vec()),
        ("hooks.toml", format!("{webhook}secret_file = \"secret\"\n").into()),
        ("none.toml", b"# none\n".to_vec()),
        ("cred.toml", credential.into()),
        ("cred2.toml", format!("{credential}{secrets}user_id = \"x\"\n").into()),
    ] {
        std::fs::write(dir.join(name), contents).unwrap();
    }
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1";
    openssl(dir, &format!("{new} -subj /CN=a -keyout key.pem -out cert.pem")).await;
    openssl(dir, &format!("{new} -subj /CN=b -keyout other.key -out other.pem")).await;
    let keys = ["key.pem", "other.key"].map(|name| std::fs::read(dir.join(name)).unwrap());
    std::fs::write(dir.join("keys.pem"), keys.concat()).unwrap();
}

/// Runs `NAME=value… markread argument…` in a directory. Returns the exit status and standard error.
async fn run(dir: &Path, line: &str) -> (i32, String) {
    let words: Vec<_> = line.split(' ').map(|word| word.trim_matches('\'')).collect();
    let binary = words.iter().position(|word| *word == "markread").unwrap();
    let variables = words[..binary].iter().map(|pair| pair.split_once('=').unwrap());
    let output =
        command(&words[binary + 1..]).envs(variables).current_dir(dir).output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn wrong_settings_are_named_with_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path()).await;
    let lines: Vec<_> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 180, "{} lines", lines.len());
    for pair in lines.chunks_exact(2) {
        let line = pair[0].strip_prefix("$ ").unwrap();
        let (status, message) = run(dir.path(), line).await;
        assert_eq!(message.trim_end(), pair[1], "{line}");
        let expected = if line.ends_with(FAILS_LATER) { 1 } else { 2 };
        assert_eq!(status, expected, "{line}");
    }
}

#[tokio::test]
async fn a_variable_that_is_not_utf8_is_named() {
    for name in ["MARKREAD_LISTEN", "MARKREAD_DRAIN"] {
        let value = std::ffi::OsString::from_vec(vec![0xff]);
        let output = command(&["serve", "--dev"]).env(name, value).output().await.unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let expected = format!("markread: {name} is not UTF-8 text: its value must be UTF-8\n");
        assert_eq!((message, output.status.code()), (expected, Some(2)));
    }
}
