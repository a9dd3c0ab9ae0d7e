//! `markread token`.

use std::os::unix::fs::PermissionsExt;

use markread_harness::caller::Credentials;
use markread_harness::{READER, RECIPIENT, Redis, Server};

use super::{Files, refused, run};

#[tokio::test]
async fn a_token_is_one_line_that_a_server_with_the_secret_accepts() {
    let files = Files::new();
    let secret = files.secret();
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for ttl in [&[][..], &["--ttl", "5m"]] {
        let user = READER.to_string();
        let args = [&["token", "--user", &user, "--jwt-secret-file", &secret], ttl].concat();
        let output = run(&args, &[]).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let token = stdout.strip_suffix('\n').unwrap();
        assert_eq!(token.split('.').count(), 3, "{token}");
        assert!(token.chars().all(|char| char.is_ascii_alphanumeric() || ".-_".contains(char)));
        let caller = server.stranger(Credentials::Authorization(format!("Bearer {token}")));
        caller.mark(RECIPIENT, 1).await.unwrap();
    }
    assert_eq!(redis.used(READER).await, Some(2), "the reader is the token's user");
}

#[tokio::test]
async fn a_token_file_is_readable_by_its_owner_only() {
    let files = Files::new();
    let secret = files.secret();
    let output = files.write("token", "readable to all");
    let args = ["token", "--user", "1", "--jwt-secret-file", &secret, "--output"];
    let made = run(&[&args[..], &[&output]].concat(), &[]).await;
    assert!(made.status.success() && made.stdout.is_empty() && made.stderr.is_empty(), "{made:?}");
    let token = std::fs::read_to_string(&output).unwrap();
    assert_eq!(token.strip_suffix('\n').unwrap().split('.').count(), 3, "{token}");
    let permissions = std::fs::metadata(&output).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    let line = refused(1, &[&args[..], &["/nowhere/token"]].concat(), &[]).await;
    assert!(line.contains("--output /nowhere/token"), "{line}");
}

#[tokio::test]
async fn a_token_that_cannot_be_issued_is_one_line() {
    let files = Files::new();
    let secret = files.secret();
    let short = files.write("short", "x".repeat(31));
    let user = ["token", "--user", "1"];
    let file = ["--jwt-secret-file", &secret];
    for (args, words) in [
        (vec!["token"], ["--user", "--jwt-secret-file"]),
        (user.to_vec(), ["--jwt-secret-file", "<FILE>"]),
        ([&["token"], &file[..]].concat(), ["--user", "<ID>"]),
        (
            [&user[..], &["--jwt-secret-file", &short]].concat(),
            ["--jwt-secret-file", "at least 32"],
        ),
        ([&user[..], &file, &["--ttl", "0s"]].concat(), ["--ttl", "at least 1ms"]),
        ([&user[..], &file, &["--ttl", "soon"]].concat(), ["--ttl", "1h"]),
        ([&user[..], &file, &["--bogus"]].concat(), ["--bogus", "--help"]),
    ] {
        let line = refused(2, &args, &[]).await;
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    for user in ["0", "", "me", "-1", "01", "1.0", "9223372036854775808"] {
        let user = format!("--user={user}");
        let line = refused(2, &[&["token", &user], &file[..]].concat(), &[]).await;
        assert!(line.contains("--user"), "{line}");
    }
}
