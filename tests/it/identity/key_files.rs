//! Files of keys are read again, at once on SIGHUP.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::server::SECRET;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::signal::Signal;
use tokio::time::sleep;
use tonic::Code;

use crate::command_line::Files;

const LIMIT: Duration = Duration::from_secs(10);

const OTHER_SECRET: &str = "another secret of the tests, which is as long";

/// Waits until a secret's tokens are accepted, and those of the other secret are not.
async fn becomes_the_key(server: &Server, secret: &str, other: &str) {
    let call = async |secret| {
        let caller = server.stranger(Credentials::token_by(secret, READER));
        caller.mark(RECIPIENT, MESSAGE).await
    };
    eventually("the new key is in use", LIMIT, async || call(secret).await.ok()).await;
    let denied = call(other).await.unwrap_err();
    assert_eq!(
        (denied.code, denied.reason.as_str()),
        (Code::Unauthenticated, "CREDENTIALS_INVALID")
    );
}

#[tokio::test]
async fn a_changed_secret_is_used_without_a_restart_and_a_wrong_one_is_not() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    becomes_the_key(&server, SECRET, OTHER_SECRET).await;
    std::fs::write(server.secret_file(), OTHER_SECRET).unwrap();
    // A token that was verified before is refused from now on.
    becomes_the_key(&server, OTHER_SECRET, SECRET).await;
    std::fs::write(server.secret_file(), "short").unwrap();
    eventually("the log says that it is not used", LIMIT, async || {
        server.log().iter().any(|line| line.contains("at least 32")).then_some(())
    })
    .await;
    becomes_the_key(&server, OTHER_SECRET, SECRET).await;
    assert!(!server.log().join("").contains(OTHER_SECRET));
}

#[tokio::test]
async fn sighup_reads_files_again_and_ends_nothing() {
    let redis = Redis::start().await;
    let mut server = Server::on(&redis).await;
    // One that comes while nothing has changed, and many at once.
    for _ in 0..100 {
        server.signal(Signal::SIGHUP);
    }
    for (new, old) in [(OTHER_SECRET, SECRET), (SECRET, OTHER_SECRET)] {
        std::fs::write(server.secret_file(), new).unwrap();
        server.signal(Signal::SIGHUP);
        becomes_the_key(&server, new, old).await;
    }
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("SIGHUP: files are read again")), "{log:?}");
    assert_eq!(server.get("/readyz").await.0, 200);
    // It drains as ever.
    server.signal(Signal::SIGTERM);
    assert!(server.exit(LIMIT).await.success());
}

#[tokio::test]
async fn on_sighup_one_read_counts() {
    let files = Files::new();
    // Two reads in a row never agree, so that nothing but the signal can have a change applied.
    let contents = |comment: u32| {
        format!(
            "# {comment}\n[[credential]]\nconsumer_key = \"k\"\nconsumer_secret = \"s\"\n\
             access_token = \"t\"\naccess_token_secret = \"u\"\nuser_id = \"1\"\n"
        )
    };
    let file = files.write("credentials.toml", contents(0));
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--oauth1-credentials-file", &file]).await;
    let change = async {
        for comment in 1.. {
            std::fs::write(&file, contents(comment)).unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let is_in_use = || server.log().iter().any(|line| line.contains("changed files are in use"));
    let check = async {
        sleep(Duration::from_secs(2)).await;
        assert!(!is_in_use(), "{:?}", server.log());
        server.signal(Signal::SIGHUP);
        eventually("the change is in use", LIMIT, async || is_in_use().then_some(())).await;
    };
    tokio::select! {
        () = change => {}
        () = check => {}
    }
}
