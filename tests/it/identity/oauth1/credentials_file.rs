//! The credentials file is read again when it changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::{Redis, Server, eventually};
use tokio::time::sleep;

use super::signer::{Call, Client};
use super::{CredentialsFile, client, reader, toml};
use crate::identity::edge::Post;

/// Longer than a server takes to notice a change.
const LIMIT: Duration = Duration::from_secs(60);

async fn is_served(client: &Client, server: &Server) -> bool {
    let answer = client.call(&server.address).send().await;
    if answer.status != 204 {
        answer.assert_refused(401, 32, "a client that is not in the file");
    }
    answer.status == 204
}

/// Waits until one client is served and the other refused.
async fn eventually_serves(what: &str, server: &Server, known: &Client, removed: &Client) {
    eventually(what, LIMIT, async || {
        let done = is_served(known, server).await && !is_served(removed, server).await;
        done.then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_that_are_added_are_served_and_those_removed_refused() {
    let redis = Redis::start().await;
    let (one, two) = (client("one", 1), client("two", 2));
    let file = CredentialsFile::of(&[&one]);
    let server = file.serve(&redis, &[]).await;
    assert!(is_served(&one, &server).await && !is_served(&two, &server).await);

    fs::write(file.path(), toml(&[&one, &two])).unwrap();
    eventually("written over", LIMIT, async || is_served(&two, &server).await.then_some(())).await;
    assert!(is_served(&one, &server).await);

    let new = file.path().with_extension("new");
    fs::write(&new, toml(&[&two])).unwrap();
    fs::rename(&new, file.path()).unwrap();
    eventually_serves("renamed over", &server, &two, &one).await;

    // A changed secret.
    let renewed = Client { token_secret: "renewed".to_owned(), ..two.clone() };
    fs::write(&new, toml(&[&renewed])).unwrap();
    fs::rename(&new, file.path()).unwrap();
    eventually_serves("a secret is changed", &server, &renewed, &two).await;
}

/// As Kubernetes mounts secrets: the file is a symlink into a directory that is a symlink.
#[tokio::test]
async fn a_symlink_that_is_replaced_counts_as_a_change() {
    let redis = Redis::start().await;
    let (one, two) = (client("one", 1), client("two", 2));
    let file = CredentialsFile::of(&[&one]);
    let dir = file.path().parent().unwrap().to_owned();
    for (version, client) in [("v1", &one), ("v2", &two)] {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("credentials.toml"), toml(&[client])).unwrap();
    }
    symlink("v1", dir.join("..data")).unwrap();
    fs::remove_file(file.path()).unwrap();
    symlink("..data/credentials.toml", file.path()).unwrap();
    let server = file.serve(&redis, &[]).await;
    assert!(is_served(&one, &server).await);

    symlink("v2", dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    eventually_serves("another version", &server, &two, &one).await;
}

/// The number of warnings about the file.
fn warnings(server: &Server) -> usize {
    let about = |line: &&String| {
        let speaks =
            line.contains("--oauth1-credentials-file") || line.contains("credentials.toml");
        (line.contains("WARN") || line.contains("ERROR"))
            && speaks
            && !line.contains("--public-url")
    };
    server.log().iter().filter(about).count()
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_clients_and_warns_once() {
    let redis = Redis::start().await;
    let (one, two) = (client("one", 1), client("two", 2));
    let file = CredentialsFile::of(&[&one]);
    let server = file.serve(&redis, &[]).await;
    let whole = toml(&[&two]);
    let broken = [
        ("half of it", whole[..whole.len() / 2].to_owned()),
        ("nothing", String::new()),
        ("no TOML", "nonsense".to_owned()),
        ("an unknown member", format!("{whole}more = \"x\"\n")),
        ("a missing member", whole.replace("access_token =", "# ")),
        ("not a string", whole.replace("user_id = \"2\"", "user_id = 2")),
        ("not a user ID", whole.replace("user_id = \"2\"", "user_id = \"me\"")),
    ];
    let mut logged = warnings(&server);
    assert_eq!(logged, 0);
    for (what, contents) in broken {
        assert_ne!(contents, whole);
        fs::write(file.path(), contents).unwrap();
        eventually(what, LIMIT, async || (warnings(&server) > logged).then_some(())).await;
        logged += 1;
        assert!(is_served(&one, &server).await && !is_served(&two, &server).await, "{what}");
    }
    fs::remove_file(file.path()).unwrap();
    eventually("no file", LIMIT, async || (warnings(&server) > logged).then_some(())).await;
    // The file is checked over and over, and logged once.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(warnings(&server), logged + 1, "{}", server.log().join("\n"));
    assert!(is_served(&one, &server).await);
    assert_eq!(server.get("/readyz").await.0, 200);

    fs::write(file.path(), whole).unwrap();
    eventually_serves("mended", &server, &two, &one).await;
}

#[tokio::test]
async fn no_secret_is_logged_whatever_the_level() {
    let redis = Redis::start().await;
    let mut one = reader();
    one.consumer_secret = "hunter2-consumer".to_owned();
    one.token_secret = "hunter2-token".to_owned();
    let file = CredentialsFile::of(&[&one]);
    let server = file.serve_in(&redis, &[], &[("RUST_LOG", "trace")]).await;

    let good = one.call(&server.address);
    good.send().await.assert_served("good");
    let secrets = ["hunter2".to_owned(), String::new()];
    let bad = Call { secrets, ..one.call(&server.address) };
    bad.send().await.assert_refused(401, 32, "bad");
    let plain = one.call(&server.address).with("oauth_signature_method", "PLAINTEXT").sign();
    let plain = plain.with("oauth_signature", "hunter2-consumer%26hunter2-token");
    plain.send().await.assert_refused(401, 32, "the secrets themselves");
    let basic = Credentials::Authorization("Basic hunter2".to_owned());
    Post::by(&basic).send(&server.address).await;

    // Each is a syntax error in a line with a secret.
    let whole = toml(&[&one]);
    for (number, contents) in [
        whole.replace("\"hunter2-token\"", "\"hunter2-token"),
        whole.replace("\"hunter2-token\"", "hunter2-token"),
        whole.replace("\"hunter2-token\"", "[\"hunter2-token\"]"),
        whole.replace("\"hunter2-token\"", "\"hunter2-\\qtoken\""),
        whole.replace("access_token_secret = ", ""),
        whole.replace("access_token_secret = ", "access_token_secret hunter2 "),
        whole.replace("access_token_secret", "access_token_hunter2"),
        whole.replace("user_id = ", "access_token_secret = "),
        whole.replace(&format!("\"{}\"", one.user), "\"hunter2\""),
        whole.clone() + &whole,
    ]
    .into_iter()
    .enumerate()
    {
        let logged = warnings(&server);
        fs::write(file.path(), contents).unwrap();
        eventually(&format!("broken in way {number}"), LIMIT, async || {
            (warnings(&server) > logged).then_some(())
        })
        .await;
    }
    for line in server.log() {
        for secret in ["hunter2", good.signature().trim_end_matches('='), one.token.as_str()] {
            assert!(!line.contains(secret), "{secret}: {line}");
        }
    }
}
