//! `MarkRead` over the wire, on a real Redis: what `docs/contract.md` promises of a call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread_harness::caller::number;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tonic::Code;

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn twitters_example_leaves_the_documented_event() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);

    let first = caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    assert!(first.advanced);
    assert_eq!(first.cursor.recipient_id, RECIPIENT);
    assert_eq!(first.cursor.last_read_event_id, MESSAGE);
    let read_at = first.cursor.read_at.unwrap();
    let read_at_ms = read_at.seconds * 1000 + i64::from(read_at.nanos) / 1_000_000;
    assert_eq!(
        redis.payloads().await,
        [format!(
            r#"{{"direct_message_mark_read_events":[{{"created_timestamp":"{read_at_ms}","sender_id":"2244994945","last_read_event_id":"8754578330382663743","target":{{"recipient_id":"3805104374"}}}}],"users":{{"2244994945":{{"id":"2244994945"}},"3805104374":{{"id":"3805104374"}}}}}}"#
        )]
    );

    for older_or_same in [MESSAGE, MESSAGE - 1, 1] {
        let again = caller.mark(RECIPIENT, older_or_same).await.unwrap();
        assert!(!again.advanced);
        assert_eq!(again.cursor, first.cursor, "the cursor is unchanged");
    }
    assert_eq!(redis.payloads().await.len(), 1);

    let next = caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap();
    assert!(next.advanced);
    assert_eq!(next.cursor.last_read_event_id, MESSAGE + 1);
    assert_eq!(redis.payloads().await.len(), 2);
}

#[tokio::test]
async fn the_keys_in_redis_are_as_documented() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for _ in 0..2 {
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
        let ttl_ms: i64 = redis.run(&format!("PTTL markread:quota:{READER}")).await;
        assert!((1..=900_000).contains(&ttl_ms), "{ttl_ms}");
    }

    let mut keys: Vec<String> = redis.run("KEYS *").await;
    keys.sort();
    assert_eq!(
        keys,
        [
            "direct_message_mark_read_events".to_owned(),
            format!("markread:cursors:{READER}"),
            "markread:layout".to_owned(),
            format!("markread:quota:{READER}"),
        ]
    );
    assert_eq!(redis.used(READER).await, Some(2));
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    let read_at: i64 = redis.run(&format!("HGET markread:cursors:{READER} -{RECIPIENT}")).await;
    assert!((unix_seconds() - read_at / 1000).abs() < 60, "{read_at}");
    let cursors_ttl: i64 = redis.run(&format!("TTL markread:cursors:{READER}")).await;
    assert_eq!(cursors_ttl, -1, "cursors never expire");
    let layout: Vec<String> = redis.run("HMGET markread:layout version partitions").await;
    assert_eq!(layout, ["2", "1"]);
}

#[tokio::test]
async fn one_call_is_one_evalsha() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    redis.run::<()>("CONFIG RESETSTAT").await;
    for message in 1..=10 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    let stats: String = redis.run("INFO commandstats").await;
    let calls = |command: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.map(|line| line.split(['=', ',']).nth(1).unwrap().to_owned())
    };
    assert_eq!(calls("evalsha").as_deref(), Some("10"), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_racing_on_one_conversation_end_at_the_greatest() {
    const TASKS: u64 = 64;
    const MARKS: u64 = 10;
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let caller = server.caller(READER);
        tasks.spawn(async move {
            let mut advances = 0;
            for n in 0..MARKS {
                let message = 1 + (n * 3 + task) % MARKS * TASKS + task;
                let answer = caller.mark(RECIPIENT, message).await.unwrap();
                assert!(answer.cursor.last_read_event_id >= message);
                advances += usize::from(answer.advanced);
            }
            advances
        });
    }
    let advances: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(redis.cursors(READER).await[&RECIPIENT], TASKS * MARKS);
    let events = redis.payloads().await;
    let messages: Vec<u64> = events
        .iter()
        .map(|event| {
            let event: serde_json::Value = serde_json::from_str(event).unwrap();
            let event = &event["direct_message_mark_read_events"][0];
            event["last_read_event_id"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    assert!(messages.is_sorted_by(|a, b| a < b));
    assert_eq!(messages.len(), advances);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_on_one_redis_serve_exactly_the_quota() {
    let redis = Redis::start().await;
    let flags = ["--rate-window", "20s"];
    let servers = [
        Server::on_with(&redis, &flags).await,
        Server::on_with(&redis, &flags).await,
        Server::on_with(&redis, &flags).await,
    ];
    let mut tasks = JoinSet::new();
    for task in 0..12_u64 {
        let caller = servers[usize::try_from(task % 3).unwrap()].caller(READER);
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for n in 0..100 {
                answers.push(caller.mark(RECIPIENT, 1 + n * 12 + task).await);
            }
            answers
        });
    }
    let answers: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let mut served = 0;
    let mut reset = 0;
    for answer in &answers {
        match answer {
            Ok(answer) => {
                served += 1;
                assert_eq!(number(&answer.metadata, "x-rate-limit-limit"), 1000);
                let remaining = number(&answer.metadata, "x-rate-limit-remaining");
                assert!((0..1000).contains(&remaining));
                reset = number(&answer.metadata, "x-rate-limit-reset");
            }
            Err(denied) => {
                assert_eq!(denied.code, Code::ResourceExhausted);
                assert_eq!(denied.reason, "RATE_LIMIT_EXCEEDED");
                let retry = denied.details.retry_info().unwrap().retry_delay.unwrap();
                assert!(retry <= Duration::from_secs(20), "{retry:?}");
                assert!(!denied.details.quota_failure().unwrap().violations.is_empty());
                assert_eq!(number(&denied.metadata, "x-rate-limit-limit"), 1000);
                assert_eq!(number(&denied.metadata, "x-rate-limit-remaining"), 0);
                assert_eq!(number(&denied.metadata, "x-rate-limit-reset"), reset);
                assert_eq!(number(&denied.metadata, "grpc-retry-pushback-ms"), -1);
            }
        }
    }
    assert_eq!((served, answers.len()), (1000, 1200));
    assert_eq!(redis.used(READER).await, Some(1000), "a denied call takes nothing");

    let wait = u64::try_from((reset - unix_seconds()).max(0)).unwrap();
    assert!(wait <= 21, "{wait}");
    tokio::time::sleep(Duration::from_secs(wait + 1)).await;
    for server in &servers {
        let answer = server.caller(READER).mark(RECIPIENT, u64::from(server.id())).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_known_denial_is_answered_without_redis() {
    let mut redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1"]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    caller.mark(RECIPIENT, 2).await.unwrap_err();
    redis.run::<()>("CONFIG RESETSTAT").await;
    for _ in 0..5 {
        let denied = caller.mark(RECIPIENT, 2).await.unwrap_err();
        assert_eq!(denied.reason, "RATE_LIMIT_EXCEEDED");
        assert_eq!(number(&denied.metadata, "x-rate-limit-remaining"), 0);
    }
    let stats: String = redis.run("INFO commandstats").await;
    assert!(!stats.contains("cmdstat_eval"), "{stats}");

    redis.kill().await;
    let denied = caller.mark(RECIPIENT, 2).await.unwrap_err();
    assert_eq!(
        denied.reason, "RATE_LIMIT_EXCEEDED",
        "the remembered denial is answered while Redis is down"
    );
    let other = server.caller(READER + 1).mark(RECIPIENT, 2).await.unwrap_err();
    assert_eq!(other.reason, "STORE_UNAVAILABLE");

    // The Redis that comes back is empty, so its earlier denial is forgotten.
    redis.restart().await;
    eventually("the denial is forgotten", Duration::from_secs(5), async || {
        caller.mark(RECIPIENT, 2).await.ok()
    })
    .await;
}

#[tokio::test]
async fn every_server_forgets_denials_when_redis_is_flushed() {
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "2"];
    let servers = [Server::on_with(&redis, &flags).await, Server::on_with(&redis, &flags).await];
    // Each server denies another reader, and remembers that.
    for (reader, server) in (1..).zip(&servers) {
        for message in 1..=2 {
            server.caller(reader).mark(RECIPIENT, message).await.unwrap();
        }
        server.caller(reader).mark(RECIPIENT, 3).await.unwrap_err();
    }
    redis.run::<()>("FLUSHALL").await;
    for (reader, server) in (1..).zip(&servers) {
        eventually("the flush is noticed", Duration::from_secs(5), async || {
            server.caller(reader).mark(RECIPIENT, 3).await.ok()
        })
        .await;
    }
    let layout: Vec<String> = redis.run("HMGET markread:layout version partitions").await;
    assert_eq!(layout, ["2", "1"]);
}

#[tokio::test]
async fn a_quota_key_without_expiry_gets_that_of_the_window() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "10"]).await;
    for (reader, used, served) in [(1_u64, 3, true), (2, 10, false)] {
        redis.run::<()>(&format!("SET markread:quota:{reader} {used}")).await;
        let answer = server.caller(reader).mark(RECIPIENT, 1).await;
        assert_eq!(answer.is_ok(), served, "{answer:?}");
        let ttl_ms: i64 = redis.run(&format!("PTTL markread:quota:{reader}")).await;
        assert!((890_000..=900_000).contains(&ttl_ms), "{ttl_ms}");
        let expected = if served { used + 1 } else { used };
        assert_eq!(redis.used(reader).await, Some(expected));
    }
}

#[tokio::test]
async fn the_stream_is_trimmed_roughly_to_its_length() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--stream-maxlen", "100"]).await;
    let caller = server.caller(READER);
    for message in 1..=400 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    let length: u64 = redis.run("XLEN direct_message_mark_read_events").await;
    assert!((100..=300).contains(&length), "{length}");
}
