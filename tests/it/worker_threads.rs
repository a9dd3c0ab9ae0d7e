//! `--worker-threads`: connections are served by several threads, each with a connection to Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use markread_harness::binary::{command_of, path};
use markread_harness::{MESSAGE, Proxy, READER, RECIPIENT, Raw, Redis, Server, eventually, wire};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answers::assert_store_unavailable;
use crate::faults::connections::{connections, listed};
use crate::read_side::watch::watcher::Watcher;

const FOUR: [&str; 2] = ["--worker-threads", "4"];

/// Longer than it takes to replace a connection on a busy machine.
const REPLACED: Duration = Duration::from_secs(6);

/// The fields of the line in the log that tells the threads.
fn logged(server: &Server) -> serde_json::Value {
    let log = server.log();
    let line = log.iter().find(|line| line.contains("\"worker threads\"")).expect("it is logged");
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn each_thread_has_a_connection_to_redis_beside_two() {
    let redis = Redis::start().await;
    for threads in [1, 4, 16] {
        let server = Server::on_with(&redis, &["--worker-threads", &threads.to_string()]).await;
        assert_eq!(connections(&redis).await.len(), threads + 2);
        let logged = logged(&server);
        assert_eq!(logged["threads"], threads);
        assert_eq!(logged["redis_connections"], threads + 2);
        assert_eq!(logged["source"], "--worker-threads");
        drop(server);
        eventually("they are closed", REPLACED, async || {
            connections(&redis).await.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn without_the_flag_the_cpu_quota_decides() {
    let redis = Redis::start().await;
    let mut command = command_of(&path(), &[]);
    command.env_remove("MARKREAD_WORKER_THREADS");
    let server = Server::at_by(command, &redis.url(), &[]).await;
    let logged = logged(&server);
    let (threads, source) = (logged["threads"].as_u64().unwrap(), &logged["source"]);
    match source.as_str().unwrap() {
        "no CPU quota" => assert_eq!(threads, 1),
        "CPU quota" | "CPU affinity" => assert!((1..=16).contains(&threads), "{threads}"),
        source => panic!("{source}"),
    }
    assert_eq!(logged["redis_connections"], threads + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_is_exact_over_connections_on_all_threads() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &FOUR).await;
    let mut tasks = JoinSet::new();
    for task in 0..8_u64 {
        let caller = server.caller(READER);
        let messages = (0..1500).filter(move |n| n % 8 == task);
        tasks.spawn(async move {
            let mut count = 0;
            for n in messages {
                match caller.mark(RECIPIENT, n + 1).await {
                    Ok(_) => count += 1,
                    Err(denied) => assert_eq!(denied.reason, "RATE_LIMIT_EXCEEDED"),
                }
            }
            count
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 1000);
    assert_eq!(redis.used(READER).await, Some(1000));
    let on_all = async || {
        for reader in 1..=8 {
            server.caller(READER + reader).mark(RECIPIENT, MESSAGE).await.unwrap();
        }
        let listed = listed(&redis).await;
        let marked = listed.iter().filter(|listed| listed.command == "evalsha").count();
        (marked == 4).then_some(())
    };
    eventually("marks came on four connections", REPLACED, on_all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_threads_lost_connection_is_replaced_alone() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &[&FOUR[..], &["--rate-limit", "1000000"]].concat()).await;
    let callers: Vec<_> = (0..8).map(|n| server.caller(READER + n)).collect();
    let mark_all = async |message: u64| {
        let marks = callers.iter().cloned();
        let marks = marks.map(|caller| async move { caller.mark(RECIPIENT, message).await });
        let answers = marks.collect::<JoinSet<_>>().join_all().await;
        answers.into_iter().filter_map(Result::err).collect::<Vec<_>>()
    };
    let calls = eventually("each thread has marked", REPLACED, async || {
        assert!(mark_all(1).await.is_empty());
        let listed = listed(&redis).await;
        let marked = listed.into_iter().filter(|listed| listed.command == "evalsha");
        let ids: BTreeSet<_> = marked.map(|listed| listed.id).collect();
        (ids.len() == 4).then_some(ids)
    })
    .await;
    for (round, closed) in (1..).zip(calls) {
        let before = connections(&redis).await;
        let kept: Vec<_> = before.iter().filter(|id| **id != closed).collect();
        redis.run::<u64>(&format!("CLIENT KILL ID {closed}")).await;
        let (mut refused, began) = (Vec::new(), Instant::now());
        let mut message = round * 1_000_000;
        loop {
            message += 1;
            refused.extend(mark_all(message).await);
            let now = connections(&redis).await;
            assert!(kept.iter().all(|id| now.contains(id)), "{kept:?} are alive: {now:?}");
            if now.len() == 6 {
                break;
            }
            assert!(began.elapsed() < REPLACED, "{now:?}");
        }
        // Two of the eight callers are on its thread.
        assert!(refused.len() <= 2, "{refused:?}");
        refused.iter().for_each(assert_store_unavailable);
        assert_eq!(server.get("/readyz").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_threads_hanging_connection_keeps_no_other_waiting() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(&redis).await;
    let flags = [&FOUR[..], &["--rate-limit", "1000000", "--call-timeout", "1s"]].concat();
    let server = Server::at(&proxy.url(), &flags, &[]).await;
    server.wait_until_ready().await;
    let callers: Vec<_> = (0..8).map(|n| server.caller(READER + n)).collect();
    for caller in &callers {
        caller.mark(RECIPIENT, 1).await.unwrap();
    }
    let listed = listed(&redis).await;
    let marked = listed.iter().find(|listed| listed.command == "evalsha");
    proxy.forget(marked.expect("a mark came on it").address);
    // More at once than a thread's slots for script calls.
    let calls = callers.iter().map(|caller| {
        let marks = (0..8).map(|n| {
            let caller = caller.clone();
            async move { caller.mark(RECIPIENT, MESSAGE + n).await.is_err() }
        });
        let marks: JoinSet<_> = marks.collect();
        async move { marks.join_all().await.contains(&true) }
    });
    let refused = calls.collect::<JoinSet<_>>().join_all().await;
    let refused = refused.into_iter().filter(|refused| *refused).count();
    assert!((1..=2).contains(&refused), "callers whose marks were refused: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_on_all_threads_hear_the_marks_of_all() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &FOUR).await;
    let mut watchers = Vec::new();
    for _ in 0..8 {
        watchers.push(Watcher::open(&server, RECIPIENT).await.0);
    }
    for reader in 1..=8 {
        server.caller(READER + reader).mark(RECIPIENT, MESSAGE).await.unwrap();
    }
    for watcher in &mut watchers {
        let mut readers = BTreeSet::new();
        for _ in 1..=8 {
            readers.insert(watcher.event().await.sender_id);
        }
        assert_eq!(readers, (READER + 1..=READER + 8).collect());
    }
}

#[tokio::test]
async fn connections_are_bounded_over_all_threads() {
    let server = Server::dev(&[&FOUR[..], &["--max-connections", "6"]].concat()).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        let raw = Raw::to(&server).await;
        assert_eq!(raw.send(raw.post("/nothing"), "").await.unwrap().status, 404);
        open.push(raw);
    }
    for _ in 0..8 {
        wire::closed(&mut wire::tcp(&server.address, b"").await).await;
    }
    for raw in &open {
        assert_eq!(raw.send(raw.post("/nothing"), "").await.unwrap().status, 404);
    }
}
