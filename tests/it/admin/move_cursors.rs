//! `move`: all cursors to another Redis, while the old one is served.

use std::collections::BTreeMap;
use std::time::Instant;

use markread_harness::free_port;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tonic::Code;

use super::*;

mod interrupted;
mod wrong;

const FINISH: &[&str] = &["--finish"];

/// Runs `move` from one Redis to another to its end.
async fn move_cursors(from: &Redis, to: &Redis, flags: &[&str]) -> Ended {
    move_to(from, &to.url(), flags).await
}

async fn move_to(from: &Redis, to: &str, flags: &[&str]) -> Ended {
    admin(from, &[&["move", "--to", to], flags].concat()).await
}

/// A `move` that goes on until it is ended.
struct Following {
    process: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Following {
    /// Starts one, and waits until everything is copied that is there.
    async fn start(from: &Redis, to: &Redis) -> Self {
        let words = ["move", "--to", &to.url(), "--follow"];
        let mut command = admin_command(&from.url(), &words);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut following = Self { process, lines };
        following.wait_for("all are copied").await;
        following
    }

    /// Waits for a line of standard error that contains this.
    async fn wait_for(&mut self, text: &str) {
        let wait = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("it ended before {text:?}");
        };
        timeout(ENDS, wait).await.expect(text);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().unwrap().try_into().unwrap()), signal).unwrap();
    }
}

/// Waits until a Redis has this cursor, or one ahead of it.
async fn wait_for_cursor(redis: &Redis, reader: u64, recipient: u64, message: u64) {
    eventually("the cursor is followed", ENDS, async || {
        let known = redis.cursors(reader).await.get(&recipient).copied();
        known.filter(|known| *known >= message)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_move_ends_with_equal_stores_and_refused_servers() {
    for (version, target) in [(1, 2), (2, 2), (2, 1)] {
        let (from, _subject) = filled(version).await;
        let to = redis_of(target).await;
        let before = exported(&from).await;
        let mut old = Server::on(&from).await;
        let copied = move_cursors(&from, &to, &[]).await.done();
        assert!(copied.contains(&format!("{FILLED} cursors of 6 readers")), "{copied}");
        assert_eq!(exported(&to).await, before);
        old.caller(77).mark(78, MESSAGE).await.expect("the source is served until --finish");

        let moved = move_cursors(&from, &to, FINISH).await.done();
        let (cursors, counts) = (FILLED + 1, "7 readers");
        let expected = format!(
            "moved: {cursors} cursors of {counts}; at the destination {cursors} cursors of {counts}, \
             none behind"
        );
        assert!(moved.starts_with(&format!("{expected}; ")), "{moved}");
        assert!(!moved.contains("first put"), "{moved}");
        assert!(moved.trim_end().ends_with(" s without service"), "{moved}");
        assert_eq!(exported(&to).await.len(), cursors);
        assert!(exported(&to).await.is_superset(&before));

        let refused = old.caller(77).mark(78, MESSAGE + 1).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
        let page = old.get("/readyz").await;
        assert!(page.0 == 503 && page.1.contains("were moved to another one"), "{page:?}");
        let mut late = Server::on_unready(&from, &[]).await;
        assert_eq!(late.exit(ENDS).await.code(), Some(2));
        old.signal(Signal::SIGTERM);
        old.exit(ENDS).await;
        let set = ["set", "--user", "1", "--recipient", "2", "--last-read-event-id", "3"];
        for words in [&["export"][..], &set, &["upgrade-layout"], &["downgrade-layout"]] {
            let refused = admin(&from, words).await;
            assert_eq!(refused.status, Some(2), "{refused:?}");
            assert!(refused.stderr.contains("were moved to another one"), "{refused:?}");
        }

        let new = Server::on(&to).await;
        assert!(!new.caller(77).mark(78, MESSAGE).await.unwrap().advanced);
        assert!(new.caller(77).mark(78, MESSAGE + 1).await.unwrap().advanced);
        // Finished again, it verifies again, and takes nothing back.
        let again = move_cursors(&from, &to, FINISH).await.done();
        assert_eq!(again.trim_end(), expected);
        assert_eq!(to.cursors(77).await, HashMap::from([(78, MESSAGE + 1)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_advances_is_followed_and_never_moves_back() {
    let (from, subject) = filled(2).await;
    let to = redis_of(2).await;
    let mut following = Following::start(&from, &to).await;
    // In the reader's own hash, in a bucket, of a new reader.
    for (reader, recipient) in [(1, 1), (1_000, 500), (5_000, 1)] {
        subject.mark_one(mark(reader, recipient, MESSAGE + 1)).await;
        wait_for_cursor(&to, reader, recipient, MESSAGE + 1).await;
    }
    // One that is ahead at the destination stays, though events arrive.
    let set = ["set", "--user", "2", "--recipient", "1", "--last-read-event-id"];
    let ahead = (MESSAGE + 9).to_string();
    admin(&to, &[&set[..], &[&ahead]].concat()).await.done();
    subject.mark_one(mark(2, 1, MESSAGE + 3)).await;
    subject.mark_one(mark(2, 2, MESSAGE + 3)).await;
    wait_for_cursor(&to, 2, 2, MESSAGE + 3).await;
    assert_eq!(to.cursors(2).await[&1], MESSAGE + 9);
    // An event of another program is not a cursor.
    from.run::<()>("XADD direct_message_mark_read_events * other x").await;
    subject.mark_one(mark(5_000, 2, 1)).await;
    wait_for_cursor(&to, 5_000, 2, 1).await;
    following.signal(Signal::SIGTERM);
    assert_eq!(timeout(ENDS, following.process.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_trimmed_unread_is_made_up_for_by_another_copy() {
    // The twin: entries that were read may be trimmed.
    for is_unread in [true, false] {
        let (from, subject) = filled(2).await;
        let to = redis_of(2).await;
        let mut following = Following::start(&from, &to).await;
        if is_unread {
            following.signal(Signal::SIGSTOP);
        }
        subject.mark_one(mark(1_000, 500, MESSAGE + 1)).await;
        subject.mark_one(mark(6_000, 1, 1)).await;
        if !is_unread {
            wait_for_cursor(&to, 6_000, 1, 1).await;
        }
        from.run::<()>("XTRIM direct_message_mark_read_events MAXLEN = 1").await;
        if is_unread {
            following.signal(Signal::SIGCONT);
            following.wait_for("all cursors are copied again").await;
        }
        subject.mark_one(mark(6_000, 2, 1)).await;
        for (reader, recipient, message) in
            [(1_000, 500, MESSAGE + 1), (6_000, 1, 1), (6_000, 2, 1)]
        {
            wait_for_cursor(&to, reader, recipient, message).await;
        }
        following.signal(Signal::SIGINT);
        let output = following.process.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        while let Some(line) = following.lines.next_line().await.unwrap() {
            assert!(!line.contains("again"), "{line}");
        }
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("stopped: all cursors were copied"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_cannot_be_followed_is_named_at_the_end() {
    let (from, subject) = filled(2).await;
    let to = redis_of(2).await;
    let mut following = Following::start(&from, &to).await;
    to.run::<()>("SET markread:cursors:5000 x").await;
    subject.mark_one(mark(5_000, 1, 1)).await;
    following.wait_for("a cursor of 5000 cannot be put").await;
    subject.mark_one(mark(5_001, 1, 1)).await;
    wait_for_cursor(&to, 5_001, 1, 1).await;
    following.signal(Signal::SIGTERM);
    following.wait_for("not everything is copied: 1 problem").await;
    assert_eq!(timeout(ENDS, following.process.wait()).await.unwrap().unwrap().code(), Some(1));
}

/// A server that was stopped marks when it goes on, before it looks at the layout.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_slept_through_the_move_can_mark_no_more() {
    // The twin: one that slept while nothing was moved.
    for is_moved in [true, false] {
        let (from, to) = (redis_of(2).await, redis_of(2).await);
        let server = Server::on(&from).await;
        let caller = server.caller(READER);
        caller.mark(RECIPIENT, MESSAGE).await.unwrap();
        server.signal(Signal::SIGSTOP);
        if is_moved {
            let moved = move_cursors(&from, &to, FINISH).await.done();
            assert!(moved.starts_with("moved: 1 cursor of 1 reader; "), "{moved}");
        }
        let mark = tokio::spawn(async move { caller.mark(RECIPIENT, MESSAGE + 1).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.signal(Signal::SIGCONT);
        let marked = mark.await.unwrap();
        assert_eq!(marked.is_err(), is_moved, "{marked:?}");
        let known = from.cursors(READER).await[&RECIPIENT];
        assert_eq!(known, if is_moved { MESSAGE } else { MESSAGE + 1 });
    }
}

/// A flushed Redis has neither the layout nor the key in place of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_shut_out_stays_so_until_undo_also_after_a_flush() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    let server = Server::on(&from).await;
    // The second move is after an undo, which such a flush does not repeat.
    for round in 0..2 {
        move_cursors(&from, &to, FINISH).await.done();
        eventually("it is not ready", ENDS, async || {
            (server.get("/readyz").await.0 == 503).then_some(())
        })
        .await;
        let layout: HashMap<String, String> = from.run("HGETALL markread:layout").await;
        from.run::<()>("FLUSHALL").await;
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            let page = server.get("/readyz").await;
            assert!(page.0 == 503 && page.1.contains("were moved"), "{round}: {page:?}");
            let refused = server.caller(1).mark(1, MESSAGE + 1).await.unwrap_err();
            assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(from.run::<u64>("DBSIZE").await, 0);
        // Nor does an old layout that comes back.
        let key = &layout["key"];
        let before = format!("HSET markread:layout version 2 partitions 1 key {key}");
        from.run::<()>(&before).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(server.get("/readyz").await.0, 503);
        for (field, value) in layout {
            from.run::<()>(&format!("HSET markread:layout {field} {value}")).await;
        }
        let undone = admin(&from, &["move", "--undo"]).await.done();
        assert_eq!(undone, "servers may use this Redis again\n");
        eventually("it serves again", ENDS, async || {
            server.caller(1).mark(1, MESSAGE + 1).await.ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_undone_and_done_again() {
    let (from, subject) = filled(2).await;
    let to = redis_of(2).await;
    let nothing = admin(&from, &["move", "--undo"]).await.done();
    assert!(nothing.contains("were not moved: nothing was changed"), "{nothing}");
    let before = from.contents().await;
    move_cursors(&from, &to, FINISH).await.done();
    let refused = move_cursors(&from, &to, &[]).await;
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("were moved to another one"), "{refused:?}");

    let refused = admin(&from, &["move", "--undo", "--to", &to.url()]).await;
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--undo takes no --to"), "{refused:?}");
    let undone = admin(&from, &["move", "--undo"]).await.done();
    assert_eq!(undone, "servers may use this Redis again\n");
    // The store has an ID since.
    from.run::<()>("HDEL markread:layout id reopened").await;
    assert_eq!(from.contents().await, before);
    drop(subject);
    let server = Server::on(&from).await;
    server.caller(1).mark(1, MESSAGE + 1).await.unwrap();
    drop(server);

    // It is the same store no more without its ID, so its cursors are strange to the destination.
    let refused = move_cursors(&from, &to, FINISH).await.failed();
    assert!(refused.contains("has cursors that are not of a move from this Redis"), "{refused}");
    let id: String = to.run("HGET markread:move source").await;
    from.run::<()>(&format!("HSET markread:layout id {id}")).await;
    move_cursors(&from, &to, FINISH).await.done();
    assert_eq!(to.cursors(1).await[&1], MESSAGE + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_cannot_be_copied_keeps_the_source_in_service() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    let server = Server::on(&from).await;
    from.run::<()>("SET markread:cursors:8 x").await;
    from.run::<()>("HSET markread:cursors:7 5 x -5 1").await;
    let copied = move_cursors(&from, &to, &[]).await;
    // One of another type has no cursors.
    assert!(copied.stderr.contains("the cursors of 7 cannot be read"), "{copied:?}");
    assert!(copied.failed().ends_with("not everything is copied: 1 problem"));
    let refused = move_cursors(&from, &to, FINISH).await.failed();
    assert!(refused.contains("is not finished, since cursors cannot be copied"), "{refused}");
    server.caller(1).mark(1, MESSAGE + 1).await.unwrap();
    from.run::<()>("HSET markread:cursors:7 5 6").await;
    let moved = move_cursors(&from, &to, FINISH).await.done();
    assert!(moved.starts_with(&format!("moved: {} cursors of 7 readers; ", FILLED + 1)), "{moved}");
    assert_eq!(to.cursors(7).await, HashMap::from([(5, 6)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_can_be_left() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    let server = Server::on(&from).await;
    from.run::<()>("CONFIG SET maxmemory 1mb").await;
    let refused = server.caller(1).mark(1, MESSAGE + 1).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    let moved = move_cursors(&from, &to, FINISH).await.done();
    assert!(moved.starts_with(&format!("moved: {FILLED} cursors of 6 readers; ")), "{moved}");
    assert_eq!(exported(&to).await.len(), FILLED);
}

/// What no event tells of, the verification finds.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_import_brought_meanwhile_is_put_by_the_verification() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    move_cursors(&from, &to, &[]).await.done();
    import(&from, &(line(77, 1, 5, 5) + &line(1, 1, MESSAGE + 1, 5))).await.done();
    move_cursors(&from, &to, FINISH).await.done();
    assert_eq!(exported(&to).await.len(), FILLED + 1);
    assert_eq!(to.cursors(1).await[&1], MESSAGE + 1);
}
