//! `export`, and what is imported from it.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Asserts that an export of one Redis that is imported in another gives the same.
async fn assert_moved(from: &Redis, to: &Redis) {
    let files = Files::new();
    let file = files.path("cursors.jsonl");
    let ended = admin(from, &["export", "--output", file.to_str().unwrap()]).await;
    assert_eq!(ended.said(), [format!("{FILLED} cursors of 6 readers exported")]);
    assert_eq!(ended.done(), "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines(&text).len(), FILLED);
    assert_eq!(lines(&text), exported(from).await, "the file has what standard output gets");

    let imported = admin(to, &["import", file.to_str().unwrap()]).await;
    let counts =
        format!("{FILLED} lines: {FILLED} advanced, 0 unchanged, 0 behind, 0 invalid, 0 failed");
    assert_eq!(*imported.said().last().unwrap(), counts);
    imported.done();
    assert_eq!(exported(to).await, lines(&text));
    for reader in [1, 2, 64, 65, 1_000, READER] {
        assert_eq!(to.cursors(reader).await, from.cursors(reader).await, "of {reader}");
    }
    assert_eq!(to.run::<u64>("EXISTS direct_message_mark_read_events").await, 0, "no event");
    assert_eq!(to.run::<Vec<String>>("KEYS markread:*quota*").await, [""; 0], "no quota");

    // Servers serve them.
    let server = Server::on(to).await;
    let caller = server.caller(1_000);
    let state = caller.state(500).await.unwrap().into_inner().state.unwrap();
    assert_eq!(state.mine.unwrap().last_read_event_id, MESSAGE - 500);
    assert!(!caller.mark(500, MESSAGE - 500).await.unwrap().advanced);
    assert!(caller.mark(500, MESSAGE).await.unwrap().advanced);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_exported_and_imported_between_versions_of_the_layout() {
    for (from, to) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let (source, _subject) = filled(from).await;
        let target = redis_of(to).await;
        assert_moved(&source, &target).await;
        let version: String = target.run("HGET markread:layout version").await;
        assert_eq!(version, to.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_are_being_moved_are_exported_and_imported_whole() {
    for is_exported in [true, false] {
        let (source, subject) = filled(1).await;
        let before = exported(&source).await;
        admin(&source, &["upgrade-layout"]).await.done();
        subject.mark_one(mark(1_000, 1, 1)).await;
        subject.mark_one(mark(READER, 1, 1)).await;
        let left: u64 = source.run("HGET markread:cursors:1000 buckets_left").await;
        assert!(left > 0, "half moved");
        if is_exported {
            assert_eq!(exported(&source).await, before);
        } else {
            let text = before.iter().map(|line| line.clone() + "\n").collect::<String>();
            let imported = import(&source, &text).await;
            let counts = " 0 advanced, 1732 unchanged, 0 behind";
            assert!(imported.said()[0].contains(counts), "{imported:?}");
            imported.done();
            assert_eq!(exported(&source).await, before);
        }
        let fields: Vec<String> = source.run("HKEYS markread:cursors:1000").await;
        assert_eq!(fields, ["keyed_buckets"], "moved on the way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_complete_or_not_there() {
    let (redis, _subject) = filled(2).await;
    let files = Files::new();
    let file = files.write("cursors.jsonl", "mine");
    let line = admin(&redis, &["export", "--output", &file]).await.failed();
    assert!(line.contains("exists already"), "{line}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");

    files.write("new.jsonl.partial", "left by an interrupted export");
    let new = files.path("new.jsonl");
    admin(&redis, &["export", "--output", new.to_str().unwrap()]).await.done();
    assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!files.path("new.jsonl.partial").exists());
    assert_eq!(lines(&std::fs::read_to_string(&new).unwrap()).len(), FILLED);

    let absent = files.path("absent/cursors.jsonl");
    let line = admin(&redis, &["export", "--output", absent.to_str().unwrap()]).await.failed();
    assert!(line.contains("cannot be written: No such file"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_cannot_be_written_is_an_error() {
    let (redis, _subject) = filled(2).await;
    let line = admin(&redis, &["export", "--output", "/dev/full"]).await.failed();
    assert!(line.contains("--output /dev/full cannot be written: No space left"), "{line}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for words in [&["export"][..], &["cursors", "--user", "1000"]] {
        let mut export = admin_command(&redis.url(), words);
        export.stdout(full.try_clone().unwrap()).stderr(Stdio::piped());
        let output = export.spawn().unwrap().wait_with_output();
        let output = timeout(ENDS, output).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line = stderr.lines().last().unwrap();
        assert!(
            line.starts_with("markread: standard output cannot be written: No space"),
            "{line}"
        );
    }
    let mut export = admin_command(&redis.url(), &["export"]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(export.stdout.take());
    let output = timeout(ENDS, export.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Broken pipe"));
}

/// Nobody reads what is written, so that the export does not come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_interrupted_while_nobody_takes_it() {
    let (redis, _subject) = large(2, 1_000).await;
    let mut export = admin_command(&redis.url(), &["export"]);
    let export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    interrupt(&export);
    let id = export.id().unwrap();
    let output = async {
        let mut export = export;
        let mut stderr = String::new();
        let mut said = export.stderr.take().unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut said, &mut stderr).await.unwrap();
        (export.wait().await.unwrap().code(), stderr)
    };
    let (status, stderr) = timeout(ENDS, output).await.expect("it ends");
    assert_eq!(status, Some(1), "{id}: {stderr}");
    assert!(stderr.starts_with("incomplete: ") && stderr.ends_with("markread: interrupted\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_cannot_be_read_are_named_and_the_others_exported() {
    let (redis, _subject) = filled(2).await;
    redis.run::<()>("HSET markread:cursors:7 5 x -5 1").await;
    redis.run::<()>("HSET markread:cursors:8 5 5").await;
    redis.run::<()>("SET markread:cursors:9 x").await;
    let export = admin(&redis, &["export"]).await;
    assert_eq!(lines(&export.stdout).len(), FILLED);
    assert!(export.said().iter().any(|line| line.starts_with("the cursors of 7 cannot be read")));
    assert!(export.said().iter().any(|line| line.contains("a cursor has no time")));
    assert!(export.failed().ends_with("2 readers cannot be read"));
    let line = admin(&redis, &["cursors", "--user", "7"]).await.failed();
    assert!(line.contains("invalid value"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bar_is_shown_on_a_terminal_only() {
    let (redis, _subject) = filled(2).await;
    let files = Files::new();
    let file = files
        .write("cursors.jsonl", exported(&redis).await.into_iter().collect::<Vec<_>>().join("\n"));
    let binary = markread_harness::binary::path();
    let line = format!("{} admin import {file} --redis-url {}", binary.display(), redis.url());
    let mut terminal = Command::new("script");
    markread_harness::binary::without_settings(&mut terminal).args(["-qec", &line, "/dev/null"]);
    let shown = ended(terminal).await.done();
    assert!(shown.contains("\u{1b}[") && shown.contains("left: "), "{shown:?}");
    let plain = admin(&redis, &["import", &file]).await;
    assert!(!plain.stderr.contains('\u{1b}') && plain.stderr.lines().count() == 1, "{plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_a_layout_or_with_another_is_refused() {
    let redis = redis_of(2).await;
    let commands = [
        &["export"][..],
        &["cursors", "--user", "1"],
        &["erase", "--user", "1"],
        &["set", "--user", "1", "--recipient", "2", "--last-read-event-id", "3"],
    ];
    for words in commands {
        let ended = admin(&redis, words).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains("this Redis has no layout of markread"), "{ended:?}");
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0], "none was written");
    for layout in ["version 3 partitions 1", "version 2-to-1 partitions 1"] {
        redis.run::<()>(&format!("HSET markread:layout {layout}")).await;
        for words in commands.into_iter().chain([&["import", "/dev/null"][..]]) {
            let ended = admin(&redis, words).await;
            assert_eq!(ended.status, Some(2), "{ended:?}");
            let version = layout.split(' ').nth(1).unwrap();
            assert!(ended.stderr.contains(&format!("layout version {version:?}")), "{ended:?}");
        }
    }
    let nowhere = Redis::down(&[]);
    for words in commands {
        admin(&nowhere, words).await.failed();
    }
}

/// Ten readers with so many cursors each: more than an export reads or writes at once.
async fn large(version: u8, cursors: u64) -> (Arc<Redis>, Subject) {
    let redis = redis_of(version).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    for reader in 1..=10 {
        mark_all(&subject, reader, 1..=cursors).await;
    }
    (redis, subject)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_interrupted_or_fails_leaves_no_file() {
    let (redis, _subject) = large(2, 1_000).await;
    let mut interrupted = 0;
    for n in 0..20 {
        let files = Files::new();
        let file = files.path("cursors.jsonl");
        let words = ["export", "--output", file.to_str().unwrap()];
        let export = admin_command(&redis.url(), &words).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the export has begun", ENDS, async || {
            (files.path("cursors.jsonl.partial").exists() || file.exists()).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(n)).await;
        interrupt(&export);
        let output = timeout(ENDS, export.wait_with_output()).await.unwrap().unwrap();
        if output.status.success() {
            assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 10_000);
        } else {
            interrupted += 1;
            assert!(!file.exists(), "{n}: {output:?}");
        }
    }
    assert!(interrupted > 0);

    // It may look for readers, but not read their cursors.
    redis.run::<()>("ACL SETUSER weak reset on >PASSWORD ~markread:* +hello +hmget +scan").await;
    let url = redis.url().replace("redis://", "redis://weak:PASSWORD@");
    for _ in 0..20 {
        let files = Files::new();
        let file = files.path("cursors.jsonl");
        let words = ["export", "--output", file.to_str().unwrap()];
        let line = ended(admin_command(&url, &words)).await.failed();
        assert!(line.contains("permissions"), "{line}");
        assert!(!file.exists() && files.path("cursors.jsonl.partial").exists());
    }
}

/// Nobody takes the first part before the layout has changed.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_many_readers_goes_on_after_an_upgrade() {
    let (redis, _subject) = large(1, 3_000).await;
    let before = exported(&redis).await;
    let mut export = admin_command(&redis.url(), &["export"]);
    let export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    admin(&redis, &["upgrade-layout"]).await.done();
    let output = timeout(ENDS, export.wait_with_output()).await.expect("it ends").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), before);
    let moved: Vec<String> = redis.run("KEYS markread:cursors:*:k0").await;
    assert!(!moved.is_empty(), "some were read under the new version");
}

pub(super) fn interrupt(child: &Child) {
    let id = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
}
