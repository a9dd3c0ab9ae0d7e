//! A move under load that is killed twice.

use std::sync::Mutex;

use markread_harness::caller::Caller;

use super::*;

/// Conversations of each reader that was imported.
const OF_A_READER: u64 = 50;

/// Conversations of a reader under load. They stay in one hash, where a mark does not look at the layout:
/// such marks go on until the server's next probe.
const OF_THE_LOAD: u64 = 60;

/// Longer than any command takes with a million cursors.
const LONG: Duration = Duration::from_secs(600);

/// Tasks that mark.
const TASKS: u64 = 4;

/// The greatest message of each conversation that was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<(u64, u64), u64>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_move_under_load_that_is_killed_twice_loses_nothing() {
    move_under_load(20_000).await;
}

/// The same with a million cursors: `cargo test --release -- --ignored --nocapture a_move_of_a_million`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_move_of_a_million_cursors_that_is_killed_twice_loses_nothing() {
    move_under_load(1_000_000).await;
}

#[expect(clippy::print_stdout, reason = "how long it takes differs from run to run")]
async fn move_under_load(cursors: u64) {
    let (from, to) = (redis_of(2).await, redis_of(2).await);
    let readers = cursors / OF_A_READER;
    let lines: String = (1..=readers)
        .flat_map(|reader| (1..=OF_A_READER).map(move |recipient| line(reader, recipient, 1, 1)))
        .collect();
    let files = Files::new();
    let file = files.write("cursors.jsonl", lines);
    ended_within(LONG, admin_command(&from.url(), &["import", &file])).await.done();
    let server = Server::on_with(&from, &["--rate-limit", "1000000"]).await;
    let acknowledged = Acknowledged::default();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let ends = &[Code::Unavailable];
        tasks.spawn(mark_on(server.caller(1 + task), task, Arc::clone(&acknowledged), ends));
    }
    let has = |part: u64| {
        let to = &to;
        move || async move { (to.run::<u64>("DBSIZE").await > part * readers / 4).then_some(()) }
    };
    // Killed while it copies, and once more while it is near the end.
    for part in [1, 3] {
        let mut command = admin_command(&from.url(), &["move", "--to", &to.url()]);
        let mut killed = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        eventually("a part is copied", LONG, has(part)).await;
        killed.kill().await.unwrap();
    }
    let began = Instant::now();
    let words = ["move", "--to", &to.url(), "--finish"];
    let moved = ended_within(LONG, admin_command(&from.url(), &words)).await;
    assert!(moved.stderr.contains("going on where the move was interrupted"), "{moved:?}");
    let moved = moved.done();
    println!("{:?}: {moved}", began.elapsed());
    let last: Vec<_> = tasks.join_all().await;
    assert!(last.iter().all(|last| *last > began), "it was under load to the end");
    // Cursors that were imported, and those of the load that were not.
    let acknowledged = acknowledged.lock().unwrap().clone();
    let new = acknowledged.keys().filter(|(_, recipient)| *recipient > OF_A_READER).count();
    let total = cursors + u64::try_from(new).unwrap();
    let counts = format!("{total} cursors of {readers} readers");
    let expected = format!("moved: {counts}; at the destination {counts}, none behind; ");
    assert!(moved.starts_with(&expected), "{moved}");
    assert!(!moved.contains("first put"), "the verification found nothing: {moved}");
    for ((reader, recipient), message) in acknowledged {
        let there = to.cursors(reader).await;
        assert!(there[&recipient] >= message, "{reader} {recipient}");
    }
    for reader in [1, TASKS, TASKS + 1, readers] {
        assert_eq!(to.cursors(reader).await, from.cursors(reader).await);
    }
}

/// Marks conversations that were imported and new ones, further each time, until that is refused. Returns when
/// the last mark was acknowledged.
async fn mark_on(
    caller: Caller,
    task: u64,
    acknowledged: Acknowledged,
    ends: &'static [Code],
) -> Instant {
    let (mut message, mut last) = (1, Instant::now());
    loop {
        message += 1;
        let recipient = 1 + (message * 7) % OF_THE_LOAD;
        match caller.mark(recipient, message).await {
            Ok(_) => {
                acknowledged.lock().unwrap().insert((1 + task, recipient), message);
                last = Instant::now();
            }
            Err(refused) if ends.contains(&refused.code) => return last,
            Err(refused) => panic!("{refused:?}"),
        }
        // A few hundred a second.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_that_is_killed_is_finished_by_the_next() {
    let (from, to) = (redis_of(2).await, redis_of(2).await);
    let server = Server::on_with(&from, &["--rate-limit", "1000000"]).await;
    server.caller(1).mark(1, 1).await.unwrap();
    let acknowledged = Acknowledged::default();
    // The second command does not wait until the server has noticed.
    let ends = &[Code::Unavailable, Code::Internal];
    let marks = tokio::spawn(mark_on(server.caller(1), 0, Arc::clone(&acknowledged), ends));
    let mut command = admin_command(&from.url(), &["move", "--to", &to.url(), "--finish"]);
    let mut killed = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually("the source is shut out", ENDS, async || {
        let version: String = from.run("HGET markread:layout version").await;
        (version == "2-moved").then_some(())
    })
    .await;
    killed.kill().await.unwrap();
    let mut away = Redis::start().await;
    let url = away.url();
    away.kill().await;
    let failed = move_to(&from, &url, FINISH).await.failed();
    assert!(failed.contains("are shut out: run the command again with --finish"), "{failed}");
    to.run::<()>("RENAME markread:move kept").await;
    to.run::<()>("SET markread:move x").await;
    let failed = move_cursors(&from, &to, FINISH).await.failed();
    assert!(failed.contains("WRONGTYPE") && failed.contains("are shut out: run"), "{failed}");
    to.run::<()>("RENAME kept markread:move").await;
    let again = move_cursors(&from, &to, &[]).await;
    assert_eq!(again.status, Some(2), "{again:?}");
    let moved = move_cursors(&from, &to, FINISH).await.done();
    assert!(moved.starts_with("moved: ") && !moved.contains("first put"), "{moved}");
    assert!(!moved.contains("without service"), "nobody knows how long: {moved}");
    marks.await.unwrap();
    let acknowledged = acknowledged.lock().unwrap().clone();
    for ((reader, recipient), message) in acknowledged {
        assert!(to.cursors(reader).await[&recipient] >= message, "{recipient}");
    }
    assert_eq!(to.cursors(1).await, from.cursors(1).await);
}

/// The old Redis comes back from its disk, with a server that was not stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_service_survives_a_restart_of_the_source() {
    for settings in [&["--save", "3600 1"][..], &["--appendonly", "yes"]] {
        let (mut from, to) = (Redis::with(settings).await, redis_of(2).await);
        let server = Server::on(&from).await;
        server.caller(1).mark(1, 1).await.unwrap();
        from.run::<()>("SAVE").await;
        let moved = move_cursors(&from, &to, FINISH).await;
        // Redis 7.0 has no WAITAOF.
        let may_be_said = settings[0] == "--appendonly";
        assert!(may_be_said || !moved.stderr.contains("stop the old servers"), "{moved:?}");
        moved.done();
        from.kill().await;
        from.restart().await;
        assert_eq!(from.run::<String>("HGET markread:layout version").await, "2-moved");
        assert_eq!(from.run::<String>("TYPE direct_message_mark_read_events").await, "string");
        let refused = server.caller(1).mark(1, 2).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_made_durable_is_named() {
    for (right, said) in
        [("bgsave", "no snapshot was saved: "), ("wait", "whether replicas have it")]
    {
        let ((from, _subject), to) = (filled(2).await, redis_of(2).await);
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &from.port.to_string()]).await;
        eventually("the replica has the layout", ENDS, async || {
            (replica.run::<u64>("EXISTS markread:layout").await == 1).then_some(())
        })
        .await;
        let user = format!("ACL SETUSER u on >p ~* +@all -{right}");
        from.run::<()>(&user).await;
        let url = from.url().replace("redis://", "redis://u:p@");
        let moved = ended(admin_command(&url, &["move", "--to", &to.url(), "--finish"])).await;
        let lines: Vec<_> = moved.stderr.lines().filter(|line| line.contains(said)).collect();
        let [line] = lines[..] else { panic!("{moved:?}") };
        assert!(line.contains(": stop the old servers before their Redis restarts"), "{line}");
        moved.done();
    }
}
