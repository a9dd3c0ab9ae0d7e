//! Files that flags name, read at the start.

use std::path::Path;
use std::time::Duration;

use markread_harness::Redis;
use markread_harness::binary::command;
use tokio::time::timeout;

use super::{Section, code};
use crate::command_line::Files;

const LIMIT: Duration = Duration::from_secs(20);

/// The exit status and the last line of a command, which is run in a folder.
pub(super) async fn ended(folder: &Path, words: &[&str]) -> (i32, String) {
    let output = command(words).current_dir(folder).output();
    let output = timeout(LIMIT, output).await.expect("it ends by itself").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{words:?}: {stderr}");
    let line = stderr.lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), line)
}

const WEBHOOK: &str =
    "[[webhook]]\nname = \"crm\"\nurl = \"https://crm.example/\"\nsecret_file = \"secret\"\n";

/// Webhook files: what is wrong with each, and the file.
fn webhooks() -> Vec<(String, Vec<u8>)> {
    let with = |line: &str| (format!("and {}", code(line)), format!("{WEBHOOK}{line}\n"));
    let changed = |from: &str, to: &str| {
        assert!(WEBHOOK.contains(from), "{from}");
        (format!("{} for {}", code(to), code(from)), WEBHOOK.replace(from, to))
    };
    let hundred: String = (0..101).map(|n| WEBHOOK.replace("crm", &format!("w{n}"))).collect();
    let mut files: Vec<_> = [
        ("no bytes".to_owned(), String::new()),
        ("`hello`, which is not TOML".to_owned(), "hello".to_owned()),
        ("a table that is cut off".to_owned(), format!("{WEBHOOK}[[webhook")),
        ("`[[webhooks]]`".to_owned(), "[[webhooks]]\n".to_owned()),
        ("`webhook = 1`".to_owned(), "webhook = 1\n".to_owned()),
        ("two webhooks of the same name".to_owned(), format!("{WEBHOOK}{WEBHOOK}")),
        ("101 webhooks".to_owned(), hundred),
        ("a webhook without a name".to_owned(), WEBHOOK.replace("name = \"crm\"\n", "")),
        (
            "a webhook without a secret".to_owned(),
            WEBHOOK.replace("secret_file = \"secret\"\n", ""),
        ),
        with("secret = \"hush\""),
        with("name = \"again\""),
        with("echo = \"yes\""),
        with("users = \"some\""),
        with("ca_file = \"absent\""),
        with("ca_file = \"secret\""),
        with("cert_file = \"secret\""),
        with("proxy = \"nonsense\""),
        with("standard_secret_file = \"secret\""),
        changed("\"crm\"", "\"c r m\""),
        changed("\"crm\"", "12345"),
        changed("https:", "http:"),
        changed("https:", "ftp:"),
        changed("crm.example", "user:hush@crm.example"),
        changed("crm.example", "127.0.0.1"),
        changed("crm.example", "0x7f.1"),
        changed("crm.example", "169.254.169.254"),
        changed("crm.example", "[::ffff:10.0.0.1]"),
        changed("\"secret\"", "\"absent\""),
        changed("\"secret\"", "\"newline\""),
    ]
    .map(|(what, file)| (what, file.into_bytes()))
    .into();
    files.push(("the byte 255 in a comment".to_owned(), b"# \xff".to_vec()));
    files
}

#[tokio::test]
async fn webhook_files() {
    let mut section = Section::new(
        "Webhook files",
        "`markread relay --webhooks hooks.toml`, with a file that is right but for this. The exit status is 2 and \
         nothing is written. A file that becomes wrong while a relay runs is a warning, and the last good one stays in \
         use.",
        &["the file has", "what is said"],
    );
    let redis = Redis::start().await;
    let files = Files::new();
    files.write("secret", "a consumer secret");
    files.write("newline", "\n");
    let folder = files.path("");
    for (what, file) in webhooks() {
        files.write("hooks.toml", file);
        let url = redis.url();
        let words = [
            "relay",
            "--webhooks",
            "hooks.toml",
            "--redis-url",
            &url,
            "--ops-listen",
            "127.0.0.1:0",
        ];
        let (status, line) = ended(&folder, &words).await;
        assert_eq!(status, 2, "{what}: {line}");
        assert!(!line.contains("hush"), "no secret is said: {line}");
        section.row(&[&what, &code(&line)]);
    }
    let keys: Vec<String> = redis.run("KEYS *").await;
    assert!(keys.is_empty(), "{keys:?}");
    section.check();
}

const CREDENTIAL: &str = "[[credential]]\nconsumer_key = \"a\"\nconsumer_secret = \"b\"\n\
                          access_token = \"c\"\naccess_token_secret = \"d\"\nuser_id = \"7\"\n";

/// Credentials files: what is wrong with each, and the file.
fn credentials() -> Vec<(String, String)> {
    let changed = |from: &str, to: &str| {
        assert!(CREDENTIAL.contains(from), "{from}");
        (format!("{} for {}", code(to), code(from)), CREDENTIAL.replace(from, to))
    };
    vec![
        ("no bytes".to_owned(), String::new()),
        ("`hello`".to_owned(), "hello".to_owned()),
        ("`[[credentials]]`".to_owned(), CREDENTIAL.replace("credential]", "credentials]")),
        ("a member that does not exist".to_owned(), format!("{CREDENTIAL}more = \"hush\"\n")),
        ("the same token twice".to_owned(), format!("{CREDENTIAL}{CREDENTIAL}")),
        ("no `access_token`".to_owned(), CREDENTIAL.replace("access_token = \"c\"\n", "")),
        changed("\"7\"", "7"),
        changed("\"7\"", "\"0\""),
        changed("\"7\"", "\"007\""),
        changed("\"7\"", "\"me\""),
        changed("\"7\"", "\"9223372036854775808\""),
        changed("\"b\"", "\"\""),
    ]
}

#[tokio::test]
async fn credentials_files() {
    let mut section = Section::new(
        "Credentials files",
        "`markread serve --oauth1-credentials-file clients.toml`, with a file that is right but for this. The exit \
         status is 2 and nothing is written.",
        &["the file has", "what is said"],
    );
    let redis = Redis::start().await;
    let files = Files::new();
    let folder = files.path("");
    for (what, file) in credentials() {
        files.write("clients.toml", file);
        let url = redis.url();
        let words = ["serve", "--oauth1-credentials-file", "clients.toml", "--redis-url", &url];
        let (status, line) = ended(&folder, &words).await;
        assert_eq!(status, 2, "{what}: {line}");
        assert!(!line.contains("hush"), "no secret is said: {line}");
        section.row(&[&what, &code(&line)]);
    }
    let keys: Vec<String> = redis.run("KEYS *").await;
    assert!(keys.is_empty(), "{keys:?}");
    section.check();
}
