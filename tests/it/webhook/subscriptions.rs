//! `markread webhook subscribe`, `unsubscribe` and `list`.

use std::collections::BTreeSet;

use markread_harness::Redis;

use super::{webhook, webhook_with};
use crate::command_line::Files;

/// The users that `list` prints, each once.
async fn listed(redis: &Redis) -> BTreeSet<u64> {
    let (status, stdout, stderr) = webhook(redis, &["list", "crm"]).await;
    assert_eq!(status, 0, "{stderr}");
    stdout.lines().map(|line| line.parse().unwrap()).collect()
}

/// Returns the IDs from 1 to this one, one a line.
fn lines_to(last: u64) -> String {
    let ids: Vec<_> = (1..=last).map(|id| id.to_string()).collect();
    ids.join("\n") + "\n"
}

#[tokio::test]
async fn users_are_named_in_every_way_and_counted() {
    let redis = Redis::start().await;
    let files = Files::new();
    let named = files.write("users", "5\n\n 6 \r\n7");
    for (args, input, expected) in [
        (&["subscribe", "crm", "1"][..], "", "1 user subscribed\n"),
        (&["subscribe", "crm", "1", "2"], "", "1 user subscribed, 1 was subscribed before\n"),
        (&["subscribe", "crm", "--user", "3", "--user", "4"], "", "2 users subscribed\n"),
        (
            &["subscribe", "crm", "1", "--user", "2", "--users-file", &named],
            "",
            "3 users subscribed, 2 were subscribed before\n",
        ),
        (&["subscribe", "crm", "--users-file", "-"], "8\n9", "2 users subscribed\n"),
        (&["subscribe", "crm", "--users-file", "-"], "\n", "0 users subscribed\n"),
        (
            &["unsubscribe", "crm", "1", "2", "10"],
            "",
            "2 users unsubscribed, 1 was not subscribed\n",
        ),
        (&["unsubscribe", "other", "3"], "", "0 users unsubscribed, 1 was not subscribed\n"),
    ] {
        let (status, stdout, stderr) = webhook_with(&redis, args, input).await;
        assert_eq!((status, &*stdout, &*stderr), (0, expected, ""), "{args:?}");
    }
    assert_eq!(listed(&redis).await, (3..=9).collect());
    let members: BTreeSet<u64> = redis.run("SMEMBERS markread:subscriptions:crm").await;
    assert_eq!(members, (3..=9).collect());
}

#[tokio::test]
async fn nobody_is_a_line_on_standard_error() {
    let redis = Redis::start().await;
    let (status, stdout, stderr) = webhook(&redis, &["list", "crm"]).await;
    assert_eq!((status, &*stdout, &*stderr), (0, "", "no user is subscribed to crm\n"));
}

#[tokio::test]
async fn an_invalid_line_is_named_and_the_users_before_it_are_subscribed() {
    let redis = Redis::start().await;
    let input = lines_to(1500) + "x\n2000\n";
    let args = ["subscribe", "crm", "--users-file", "-"];
    let (status, stdout, stderr) = webhook_with(&redis, &args, &input).await;
    assert_eq!((status, &*stdout), (1, ""));
    let expected = "markread: --users-file standard input, line 1501: the ID is not a number: it must \
                    be an integer from 1 to 9223372036854775807 in decimal digits (so far 1500 users \
                    subscribed; the command may be run again)\n";
    assert_eq!(stderr, expected);
    assert_eq!(redis.run::<u64>("SCARD markread:subscriptions:crm").await, 1500);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_changes_nothing() {
    let redis = Redis::start().await;
    let args = ["subscribe", "crm", "1", "--users-file", "/absent"];
    let (status, _, stderr) = webhook(&redis, &args).await;
    assert_eq!(status, 1);
    assert!(stderr.contains("--users-file /absent cannot be read: No such file"), "{stderr}");
    assert_eq!(redis.run::<u64>("EXISTS markread:subscriptions:crm").await, 0);
}

#[tokio::test]
async fn a_hundred_thousand_users_come_and_go() {
    let redis = Redis::start().await;
    let input = lines_to(100_000);
    let args = ["subscribe", "crm", "--users-file", "-"];
    let (_, stdout, stderr) = webhook_with(&redis, &args, &input).await;
    assert_eq!(stdout, "100000 users subscribed\n", "{stderr}");
    assert_eq!(listed(&redis).await, (1..=100_000).collect());
    let args = ["unsubscribe", "crm", "--users-file", "-"];
    let (_, stdout, stderr) = webhook_with(&redis, &args, &input).await;
    assert_eq!(stdout, "100000 users unsubscribed\n", "{stderr}");
    assert_eq!(redis.run::<u64>("EXISTS markread:subscriptions:crm").await, 0);
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_an_error() {
    let redis = Redis::start().await;
    redis.run::<()>("SET markread:subscriptions:crm text").await;
    for args in [&["subscribe", "crm", "1"][..], &["list", "crm"]] {
        let (status, stdout, stderr) = webhook(&redis, args).await;
        assert_eq!((status, &*stdout), (1, ""), "{stderr}");
        assert!(stderr.contains("WRONGTYPE"), "{stderr}");
    }
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_a_list_quietly() {
    let redis = Redis::start().await;
    let input = lines_to(100_000);
    let args = ["subscribe", "crm", "--users-file", "-"];
    assert_eq!(webhook_with(&redis, &args, &input).await.0, 0);
    let mut command = markread_harness::binary::command(&["webhook", "list", "crm"]);
    command.args(["--redis-url", &redis.url()]).kill_on_drop(true);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut process = command.spawn().unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
}
