//! Servers of the commit before layout version 2 and of this one, side by side on one Redis. Their binary
//! takes minutes to build: `tests/run all upgrade` does it, and names it in `MARKREAD_TEST_OLD_BINARY`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use markread_harness::binary::command;
use markread_harness::caller::Caller;
use markread_harness::{MESSAGE, Redis, Server, eventually};
use tokio::task::JoinSet;

const MANY: [&str; 4] = ["--rate-limit", "1000000", "--read-rate-limit", "1000000"];

fn old_binary() -> PathBuf {
    let binary = std::env::var_os("MARKREAD_TEST_OLD_BINARY");
    binary.expect("MARKREAD_TEST_OLD_BINARY: tests/run all upgrade builds it").into()
}

async fn old_server(redis: &Redis) -> Server {
    let server = Server::of_binary(&old_binary(), &redis.url(), &MANY, &[]).await;
    server.wait_until_ready().await;
    server
}

async fn administer(redis: &Redis, name: &str) {
    let words = ["admin", name, "--redis-url", &redis.url()];
    let output = command(&words).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Readers that are marked in ever more conversations and read, until they are stopped. No call fails and
/// no cursor is behind what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    readers: JoinSet<(u64, HashMap<u64, u64>)>,
}

impl Load {
    /// Starts three readers, each with its callers in turn.
    fn start(servers: &[&Server], first_reader: u64, rounds_of_messages: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut readers = JoinSet::new();
        for reader in first_reader..first_reader + 3 {
            let callers: Vec<_> = servers.iter().map(|server| server.caller(reader)).collect();
            readers.spawn(run_reader(callers, reader, Arc::clone(&stop), rounds_of_messages));
        }
        Self { stop, readers }
    }

    /// Stops it, and returns the acknowledged cursors of each reader.
    async fn stop(self) -> HashMap<u64, HashMap<u64, u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.readers.join_all().await.into_iter().collect()
    }
}

async fn run_reader(
    callers: Vec<Caller>,
    reader: u64,
    stop: Arc<AtomicBool>,
    first_message: u64,
) -> (u64, HashMap<u64, u64>) {
    let mut known: HashMap<u64, u64> = HashMap::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let caller = |n: u64| &callers[usize::try_from(n).unwrap() % callers.len()];
        round += 1;
        let message = MESSAGE + first_message + round;
        let recipient =
            1 + round * 7 % 3_000 * if reader.is_multiple_of(2) { 2_147_483_647 } else { 1 };
        let answer = caller(round).mark(recipient, message).await.unwrap();
        assert!(answer.cursor.last_read_event_id >= message);
        known.insert(recipient, message);
        let batch: Vec<_> = (0..30).map(|n| (5_000 + round * 31 % 900 + n, message)).collect();
        let results = caller(round + 1).mark_batch(&batch).await.unwrap().into_inner().results;
        assert_eq!(results.len(), batch.len());
        for (result, (recipient, message)) in results.into_iter().zip(batch) {
            let markread::proto::batch_mark_read_result::Result::Response(response) =
                result.result.unwrap()
            else {
                panic!("a mark of the batch failed")
            };
            assert!(response.cursor.unwrap().last_read_event_id >= message);
            known.insert(recipient, message);
        }
        // Behind by one: a no-op at the cursor, wherever it is.
        let answer = caller(round).mark(recipient, message - 1).await.unwrap();
        assert!(!answer.advanced && answer.cursor.last_read_event_id == message);
        if round % 10 == 0 {
            assert_listed(caller(round), &known).await;
        }
    }
    (reader, known)
}

/// Asserts that pages have every cursor that is known, none behind it, and each once.
async fn assert_listed(caller: &Caller, known: &HashMap<u64, u64>) {
    let (mut listed, mut token) = (HashMap::new(), String::new());
    loop {
        let page = caller.page(1_000, &token).await.unwrap().into_inner();
        for cursor in page.cursors {
            let other = listed.insert(cursor.recipient_id, cursor.last_read_event_id);
            assert_eq!(other, None, "listed twice");
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    for (recipient, message) in known {
        assert!(listed.get(recipient) >= Some(message), "{recipient} is missing or behind");
    }
}

async fn assert_holds(redis: &Redis, known: &HashMap<u64, HashMap<u64, u64>>) {
    for (reader, cursors) in known {
        assert_eq!(redis.cursors(*reader).await, *cursors, "of {reader}");
    }
}

const SHARE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_servers_share_a_store_through_upgrade_and_rollback() {
    let redis = Redis::start().await;
    let old = old_server(&redis).await;
    let load = Load::start(&[&old], 100, 0);
    tokio::time::sleep(SHARE).await;
    let mut known = load.stop().await;

    // The rollout: an old server and new ones, on the same readers.
    let new = Server::on_with(&redis, &MANY).await;
    let load = Load::start(&[&old, &new], 100, 1_000_000);
    tokio::time::sleep(SHARE).await;
    for (reader, cursors) in load.stop().await {
        known.entry(reader).or_default().extend(cursors);
    }
    assert_holds(&redis, &known).await;
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "1");

    // A rollback before the upgrade is plain.
    drop(new);
    let load = Load::start(&[&old], 100, 2_000_000);
    tokio::time::sleep(SHARE / 3).await;
    for (reader, cursors) in load.stop().await {
        known.entry(reader).or_default().extend(cursors);
    }
    assert_holds(&redis, &known).await;

    // Every server is new, and the layout is upgraded under load.
    let (new, other) = (Server::on_with(&redis, &MANY).await, Server::on_with(&redis, &MANY).await);
    drop(old);
    let load = Load::start(&[&new, &other], 100, 3_000_000);
    tokio::time::sleep(SHARE / 3).await;
    administer(&redis, "upgrade-layout").await;
    tokio::time::sleep(SHARE).await;
    for (reader, cursors) in load.stop().await {
        known.entry(reader).or_default().extend(cursors);
    }
    assert_holds(&redis, &known).await;

    // An old server refuses version 2, and changes nothing.
    let mut refused = Server::of_binary(&old_binary(), &redis.url(), &MANY, &[]).await;
    assert_eq!(refused.exit(Duration::from_secs(10)).await.code(), Some(2));
    assert_holds(&redis, &known).await;

    // The downgrade with servers stopped, then the old one again, beside a new one.
    drop((new, other));
    administer(&redis, "downgrade-layout").await;
    assert_holds(&redis, &known).await;
    let (old, new) = (old_server(&redis).await, Server::on_with(&redis, &MANY).await);
    for (reader, cursors) in &known {
        for server in [&old, &new] {
            assert_listed(&server.caller(*reader), cursors).await;
        }
    }
    let load = Load::start(&[&old, &new], 100, 4_000_000);
    tokio::time::sleep(SHARE / 3).await;
    for (reader, cursors) in load.stop().await {
        known.entry(reader).or_default().extend(cursors);
    }
    assert_holds(&redis, &known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_goes_from_an_old_server_to_a_new_one_and_back() {
    let redis = Redis::start().await;
    let (old, new) = (old_server(&redis).await, Server::on_with(&redis, &MANY).await);
    let marks: Vec<_> = (1..=400).map(|to| (to, MESSAGE)).collect();
    old.caller(7).mark_batch(&marks).await.unwrap();
    let (mut listed, mut token) = (HashMap::new(), String::new());
    for n in 0.. {
        let server = if n % 2 == 0 { &old } else { &new };
        let page = server.caller(7).page(30, &token).await.unwrap().into_inner();
        for cursor in page.cursors {
            assert_eq!(listed.insert(cursor.recipient_id, cursor.last_read_event_id), None);
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, marks.into_iter().collect());
    let version = eventually("the version is read", SHARE, async || {
        redis.run::<Option<String>>("HGET markread:layout version").await
    })
    .await;
    assert_eq!(version, "1");
}
