//! The command line: help, and errors in one line.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use markread_harness::binary::command;
use markread_harness::caller::number;
use markread_harness::server::SECRET;
use markread_harness::{READER, RECIPIENT, Redis, Server, openssl};
use tempfile::TempDir;
use tokio::time::timeout;

mod empty;
mod messages;
mod tokens;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) type Variables<'a> = &'a [(&'a str, &'a str)];

async fn run(args: &[&str], variables: Variables<'_>) -> Output {
    let output = command(args).envs(variables.iter().copied()).output();
    timeout(LIMIT, output).await.expect("the command ends by itself").unwrap()
}

/// Runs a command that fails, and returns its one line.
pub(crate) async fn refused(status: i32, args: &[&str], variables: Variables<'_>) -> String {
    let output = run(args, variables).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?} {variables:?}: {stderr}");
    assert_eq!(output.stdout, b"", "{args:?}");
    let line = stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains(char::is_control), "{line:?} has a control character");
    assert!(!line.contains("panicked"), "{line}");
    line.to_owned()
}

/// Asserts that a start is refused with exit status 2 and a line with each of these words.
pub(crate) async fn assert_refused(args: &[&str], words: &[&str]) {
    let line = refused(2, &[&["serve"], args].concat(), &[]).await;
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in: {line}");
    }
}

/// Files that are removed with the test.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), contents).unwrap();
        text(&self.path(name))
    }

    pub(crate) fn secret(&self) -> String {
        self.write("secret", SECRET)
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_invalid_flag_is_named_with_what_is_allowed() {
    assert_refused(&["--dev", "--bogus"], &["--bogus", "--help"]).await;
    assert_refused(&["--dev", "--lisen", "127.0.0.1:0"], &["--lisen", "'--listen'"]).await;
    assert_refused(&["--dev", "extra"], &["neither an option", "--help"]).await;
    assert_refused(&["--dev", "--listen"], &["--listen", "<ADDRESS>"]).await;
    assert_refused(
        &["--dev", "--listen", "nonsense"],
        &["--listen", "nonsense", "127.0.0.1:50051"],
    )
    .await;
    assert_refused(&["--dev", "--listen", "127.0.0.1"], &["--listen", "a port", "127.0.0.1:50051"])
        .await;
    assert_refused(&["--dev", "--ops-listen", "x:1"], &["--ops-listen", "127.0.0.1:"]).await;
    assert_refused(&["--dev", "--rate-window", "0s"], &["--rate-window", "0s", "at least 1ms"])
        .await;
    assert_refused(&["--dev", "--rate-window", "15"], &["--rate-window", "a unit", "15m"]).await;
    assert_refused(&["--dev", "--rate-window", "999y"], &["--rate-window", "at most 365 days"])
        .await;
    assert_refused(&["--dev", "--rate-limit", "0"], &["--rate-limit", "from 1 to"]).await;
    assert_refused(&["--dev", "--edge-burst", "0"], &["--edge-burst", "from 1 to"]).await;
    assert_refused(&["--dev", "--max-connections", "0"], &["--max-connections", "from 1 to"]).await;
    assert_refused(&["--dev", "--log-format", "xml"], &["--log-format", "text", "json"]).await;
    for flag in ["--rate-limit", "--edge-rate", "--max-concurrent-streams", "--stream-maxlen"] {
        assert_refused(&["--dev", flag, "many"], &[flag, "many", "an integer from"]).await;
    }
}

#[tokio::test]
async fn a_server_needs_exactly_one_way_to_authenticate() {
    let files = Files::new();
    let secret = files.secret();
    let one = ["--jwt-secret-file", "--jwt-public-key-file"];
    assert_refused(&[], &[&one[..], &["--dev"]].concat()).await;
    assert_refused(&["--jwt-issuer", "https://issuer"], &one).await;
    assert_refused(&[one[0], &secret, one[1], &secret], &[&one[..], &["both set"]].concat()).await;
}

#[tokio::test]
async fn a_file_without_a_key_is_refused() {
    let files = Files::new();
    let missing = text(&files.path("missing"));
    let directory = text(files.0.path());
    let empty = files.write("empty", "");
    let newline = files.write("newline", "\n");
    let short = files.write("short", "x".repeat(31));
    let short_with_newline = files.write("short-with-newline", "x".repeat(31) + "\n");
    for flag in ["--jwt-secret-file", "--jwt-public-key-file"] {
        assert_refused(&[flag, &missing], &[flag, &missing, "cannot be read", "No such file"])
            .await;
        assert_refused(&[flag, &directory], &[flag, &directory, "cannot be read"]).await;
        assert_refused(&[flag, &empty], &[flag, "is empty"]).await;
    }
    for file in [newline, short, short_with_newline] {
        assert_refused(&["--jwt-secret-file", &file], &["--jwt-secret-file", "at least 32"]).await;
    }

    let dir = files.0.path();
    openssl(dir, "genpkey -algorithm ed25519 -out private").await;
    for (key, kind) in [
        ("p384", "-algorithm ec -pkeyopt ec_paramgen_curve:P-384"),
        ("rsa", "-algorithm rsa -pkeyopt rsa_keygen_bits:1024"),
    ] {
        openssl(dir, &format!("genpkey {kind} -out {key}")).await;
        openssl(dir, &format!("pkey -pubout -in {key} -out {key}.pub")).await;
    }
    let [private, p384, rsa] =
        ["private", "p384.pub", "rsa.pub"].map(|name| text(&files.path(name)));
    let garbage = "-----BEGIN PUBLIC KEY-----\nbm8ga2V5\n-----END PUBLIC KEY-----\n";
    openssl(dir, "pkey -in private -pubout -out public").await;
    let [public, secret_key] =
        ["public", "private"].map(|name| std::fs::read_to_string(files.path(name)).unwrap());
    for (pem, count) in [
        (format!("{public}{public}"), 2),
        (public.repeat(3), 3),
        (format!("{public}{secret_key}"), 2),
        (format!("{secret_key}{public}"), 2),
    ] {
        let file = files.write("several", pem);
        let words = ["--jwt-public-key-file", &format!("contains {count} PEM keys"), "one public"];
        assert_refused(&["--jwt-public-key-file", &file], &words).await;
    }
    // The key is accepted: the error is about another flag.
    let one = files.write("one", format!("a comment\n{public}\n"));
    assert_refused(&["--jwt-public-key-file", &one, "--stream", ""], &["--stream"]).await;
    for file in [private, p384, rsa, files.secret(), files.write("garbage", garbage)] {
        let right = ["--jwt-public-key-file", "PEM public key", "RSA", "P-256", "Ed25519"];
        assert_refused(&["--jwt-public-key-file", &file], &right).await;
    }
}

#[tokio::test]
async fn a_secret_of_32_bytes_and_a_newline_is_accepted() {
    let files = Files::new();
    for newline in ["\n", "\r\n"] {
        let secret = files.write("secret", "x".repeat(32) + newline);
        let token = run(&["token", "--user", "1", "--jwt-secret-file", &secret], &[]).await;
        assert!(token.status.success());
        // The secret is accepted: the error is about another flag.
        assert_refused(&["--jwt-secret-file", &secret, "--stream", ""], &["--stream"]).await;
        // The newline does not count.
        let short = files.write("short", "x".repeat(31) + newline);
        assert_refused(&["--jwt-secret-file", &short], &["31 bytes", "at least 32"]).await;
    }
}

#[tokio::test]
async fn output_that_cannot_be_written_is_said() {
    let files = Files::new();
    let secret = files.secret();
    let token = ["token", "--user", "1", "--jwt-secret-file", &secret];
    for args in [&token[..], &["--help"], &["--version"], &["serve", "--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let child = command(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.starts_with("markread: output failed: No space left"), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[tokio::test]
async fn an_invalid_redis_url_is_refused_without_its_password() {
    let files = Files::new();
    let secret = files.secret();
    for url in ["http://x", "x", "redis://:hunter2@host:port", "redis://u:hunter2@[::/0"] {
        let args = ["serve", "--jwt-secret-file", &secret, "--redis-url", url];
        for line in [
            refused(2, &args, &[]).await,
            refused(2, &args[..3], &[("MARKREAD_REDIS_URL", url)]).await,
        ] {
            assert!(line.contains("--redis-url"), "{line}");
            assert!(line.contains("redis://host:port"), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }
}

#[tokio::test]
async fn dev_may_be_turned_on_by_the_environment() {
    for yes in ["1", "true", "yes", "on"] {
        let args = ["serve", "--redis-url", "redis://127.0.0.1"];
        let line = refused(2, &args, &[("MARKREAD_DEV", yes)]).await;
        assert!(line.contains("--redis-url and --dev are both set: remove one"), "{line}");
    }
    let line = refused(2, &["serve"], &[("MARKREAD_DEV", "0")]).await;
    assert!(line.contains("no way to authenticate"), "{line}");
}

#[tokio::test]
async fn a_url_in_the_place_of_a_flag_is_not_repeated() {
    let line = refused(2, &["serve", "redis://:hunter2@host"], &[]).await;
    assert!(line.contains("--help") && !line.contains("hunter2"), "{line}");
}

#[tokio::test]
async fn dev_excludes_redis_credentials_and_public_addresses() {
    let files = Files::new();
    let secret = files.secret();
    for (flag, value) in [
        ("--redis-url", "redis://127.0.0.1:6379"),
        ("--redis-username", "markread"),
        ("--redis-password-file", secret.as_str()),
        ("--redis-ca", secret.as_str()),
        ("--redis-cert", secret.as_str()),
        ("--redis-key", secret.as_str()),
        ("--redis-mode", "standalone"),
        ("--partitions", "1"),
        ("--redis-sentinel-master", "chat"),
        ("--redis-sentinel-username", "markread"),
        ("--redis-sentinel-password-file", secret.as_str()),
        ("--redis-sentinel-ca", secret.as_str()),
        ("--redis-sentinel-cert", secret.as_str()),
        ("--redis-sentinel-key", secret.as_str()),
        ("--replicas-ack", "0"),
        ("--replicas-ack-timeout", "50ms"),
        ("--jwt-secret-file", secret.as_str()),
        ("--jwt-public-key-file", secret.as_str()),
        ("--jwt-issuer", "https://issuer"),
        ("--jwt-audience", "markread"),
    ] {
        assert_refused(&["--dev", flag, value], &[flag, "--dev"]).await;
        let variable = format!("MARKREAD_{}", flag[2..].replace('-', "_").to_uppercase());
        let line = refused(2, &["serve", "--dev"], &[(&variable, value)]).await;
        assert!(line.contains(flag) && line.contains("--dev"), "{line}");
    }
    assert_refused(&["--dev", "--fsync-ack"], &["--fsync-ack", "--dev"]).await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        assert_refused(&["--dev", "--listen", address], &["--listen", address, "127.0.0.1"]).await;
        let ops = ["--dev", "--listen", "127.0.0.1:0", "--ops-listen", address];
        assert_refused(&ops, &["--ops-listen", address, "127.0.0.1"]).await;
    }
}

#[tokio::test]
async fn replicas_are_not_waited_for_longer_than_a_call_may_take() {
    let files = Files::new();
    let secret = files.secret();
    for ack in [&["--replicas-ack", "1"][..], &["--fsync-ack"]] {
        for timeout in ["1s", "2s"] {
            let args = ["--jwt-secret-file", &secret, "--call-timeout", "1s"];
            let words = ["--replicas-ack-timeout", timeout, "--call-timeout", "1s"];
            let args = [&args[..], ack, &["--replicas-ack-timeout", timeout]].concat();
            assert_refused(&args, &words).await;
        }
    }
}

#[tokio::test]
async fn the_environment_sets_what_no_flag_sets() {
    let line = refused(2, &["serve", "--dev"], &[("MARKREAD_LISTEN", "nonsense")]).await;
    assert!(line.contains("--listen") && line.contains("nonsense"), "{line}");

    // Flags have precedence: the flag's address is refused, not that of the environment.
    let args = ["serve", "--dev", "--listen", "192.0.2.1:0"];
    let line = refused(2, &args, &[("MARKREAD_LISTEN", "nonsense")]).await;
    assert!(line.contains("192.0.2.1"), "{line}");

    let redis = Redis::start().await;
    let variables = [("MARKREAD_RATE_LIMIT", "3"), ("MARKREAD_RATE_WINDOW", "1h")];
    let server = Server::on_in(&redis, &["--rate-window", "2h"], &variables).await;
    server.wait_until_ready().await;
    let answer = server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    assert_eq!(number(&answer.metadata, "x-rate-limit-limit"), 3);
    let ttl_seconds: u64 = redis.run(&format!("TTL markread:quota:{READER}")).await;
    assert!(ttl_seconds > 3600, "{ttl_seconds}");
}

#[tokio::test]
async fn input_is_never_printed_raw() {
    let files = Files::new();
    let secret = files.secret();
    let evil = "a\nb\r\x1b[31mred\x07\u{9b}1m";
    // `refused` asserts that the line has no control character.
    for flag in ["--listen", "--rate-window", "--rate-limit", "--log-format", "--dev"] {
        let value = format!("{flag}={evil}");
        assert_refused(&[&value], &[flag]).await;
    }
    for flag in ["--jwt-secret-file", "--jwt-public-key-file"] {
        assert_refused(&[flag, evil], &[flag]).await;
    }
    assert_refused(&["--jwt-secret-file", &secret, "--redis-url", evil], &["--redis-url"]).await;
    assert_refused(&[&format!("--{evil}")], &[]).await;
    refused(2, &[evil], &[]).await;
    refused(2, &["token", "--user", evil, "--jwt-secret-file", &secret], &[]).await;
    refused(2, &["serve", "--dev"], &[("MARKREAD_LISTEN", evil)]).await;
}

#[tokio::test]
async fn a_port_in_use_is_a_failure_not_a_usage_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (flag, other) in [("--listen", "--ops-listen"), ("--ops-listen", "--listen")] {
        let args = ["serve", "--dev", flag, &address, other, free];
        let line = refused(1, &args, &[]).await;
        assert!(line.contains(flag) && line.contains(&address), "{line}");
        assert!(line.to_lowercase().contains("in use"), "{line}");
    }
}

#[tokio::test]
async fn help_names_every_flag_with_its_variable_and_default() {
    const WITHOUT_DEFAULT: [&str; 19] = [
        "dev",
        "fsync-ack",
        "redis-password-file",
        "redis-cert",
        "redis-key",
        "redis-sentinel-master",
        "redis-sentinel-password-file",
        "redis-sentinel-cert",
        "redis-sentinel-key",
        "jwt-secret-file",
        "jwt-public-key-file",
        "jwt-jwks-url",
        "jwt-issuer",
        "jwt-audience",
        "oauth1-credentials-file",
        "tls-cert",
        "tls-key",
        "client-ca",
        "trusted-client",
    ];
    let variables =
        [("MARKREAD_REDIS_URL", "redis://:hunter2@host"), ("MARKREAD_STREAM", "hunter2")];
    let top = run(&["--help"], &variables).await;
    assert!(top.status.success() && top.stderr.is_empty());
    let top = String::from_utf8(top.stdout).unwrap();
    assert!(top.contains("serve") && top.contains("token"), "{top}");

    let help = run(&["serve", "--help"], &variables).await;
    assert!(help.status.success() && help.stderr.is_empty());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(!help.contains("hunter2"), "{help}");
    let blocks: HashMap<&str, &str> = help
        .split("\n      --")
        .skip(1)
        .map(|block| {
            (block.split([' ', '\n']).next().unwrap(), block.split("\n  -h").next().unwrap())
        })
        .collect();
    for (flag, block) in &blocks {
        let variable = format!("[env: MARKREAD_{}]", flag.replace('-', "_").to_uppercase());
        assert!(block.contains(&variable), "{variable}: {block}");
        let words = block.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words.contains("[default: "), !WITHOUT_DEFAULT.contains(flag), "{block}");
    }
    for (flag, default) in [
        ("listen", "127.0.0.1:50051"),
        ("ops-listen", "127.0.0.1:9464"),
        ("redis-url", "redis://127.0.0.1:6379"),
        ("redis-mode", "standalone"),
        ("partitions", "64 in a cluster, else 1"),
        ("rate-limit", "1000"),
        ("rate-window", "15m"),
        ("edge-rate", "100000"),
        ("edge-burst", "200000"),
        ("call-timeout", "2s"),
        ("stream", "direct_message_mark_read_events"),
        ("stream-maxlen", "1000000"),
        ("user-key-prefix", "user:"),
        ("public-url", "what the request names"),
        ("replicas-ack", "0"),
        ("replicas-ack-timeout", "100ms"),
        (
            "worker-threads",
            "the CPUs of its cgroups' quota, rounded down, but no more than it may run on, 1 to 16; \
             1 without a quota",
        ),
        ("drain-delay", "0s"),
        ("drain", "20s"),
        ("log-format", "text on a terminal, else json"),
    ] {
        let words = blocks[flag].split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("[default: {default}]")), "{words}");
    }
    assert!(blocks["stream-maxlen"].contains("0.3") && blocks["stream-maxlen"].contains("6.4 KB"));
}

#[tokio::test]
async fn version_says_which_markread_this_is() {
    let version = run(&["--version"], &[]).await;
    assert!(version.status.success() && version.stderr.is_empty());
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.starts_with(concat!("markread ", env!("CARGO_PKG_VERSION"))), "{version}");
}
