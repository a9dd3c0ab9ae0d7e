//! `import`: whatever is in the lines, interrupted, and beside marks.

use super::export::interrupt;
use super::*;

/// Reader, recipient, message and time of a fixed sequence of lines, whose conversations repeat.
fn sequence(length: u64) -> Vec<(u64, u64, u64, u64)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut lines = Vec::new();
    for _ in 0..length {
        // Two of five readers have enough conversations for buckets.
        let reader = 1 + next(5);
        let recipient = 1 + next(10_u64.pow(u32::try_from(reader).unwrap().min(3)));
        // Digits of 1 to 19 places, and neighbours that are equal as floats.
        let message = (MESSAGE - next(3)) / 10_u64.pow(u32::try_from(next(19)).unwrap());
        lines.push((reader, recipient, message.max(1), next(1_000_000)));
    }
    lines
}

/// The lines' cursors: the greatest message of each conversation, by reader.
fn greatest(lines: &[(u64, u64, u64, u64)]) -> BTreeMap<u64, HashMap<u64, u64>> {
    let mut readers: BTreeMap<u64, HashMap<u64, u64>> = BTreeMap::new();
    for (reader, recipient, message, _) in lines {
        let known = readers.entry(*reader).or_default().entry(*recipient).or_default();
        *known = (*known).max(*message);
    }
    readers
}

async fn assert_holds(redis: &Redis, readers: &BTreeMap<u64, HashMap<u64, u64>>) {
    for (reader, cursors) in readers {
        assert_eq!(redis.cursors(*reader).await, *cursors, "of {reader}");
    }
}

fn text(lines: &[(u64, u64, u64, u64)]) -> String {
    lines.iter().map(|(reader, to, message, at)| line(*reader, *to, *message, *at)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_conversation_ends_at_its_greatest_message_in_any_order() {
    for version in [1, 2] {
        let redis = redis_of(version).await;
        let mut all = sequence(4_000);
        for round in 0..2 {
            let imported = import(&redis, &text(&all)).await;
            let counts = imported.stderr.lines().last().unwrap().to_owned();
            assert!(counts.starts_with("4000 lines: "), "{counts}");
            let is_again = counts.starts_with("4000 lines: 0 advanced");
            assert_eq!(is_again, round == 1, "{counts}");
            imported.done();
            assert_holds(&redis, &greatest(&all)).await;
            all.reverse();
        }
        // The time is that of the line that was the greatest.
        let (reader, to) = (READER, RECIPIENT);
        let times =
            [(reader, to, 5, 50), (reader, to, 7, 70), (reader, to, 6, 60), (reader, to, 7, 71)];
        let imported = import(&redis, &text(&times)).await;
        assert!(imported.stderr.contains("4 lines: 2 advanced, 1 unchanged, 1 behind"));
        let printed = admin(&redis, &["cursors", "--user", &reader.to_string()]).await.done();
        assert_eq!(printed, line(reader, to, 7, 70));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_redis_gets_a_layout_and_times_are_rediss_where_they_are_missing() {
    let redis = redis_of(2).await;
    let lines = "{\"reader_id\":1,\"recipient_id\":2,\"last_read_event_id\":3}\n";
    let imported = import(&redis, lines).await;
    assert_eq!(imported.said()[0], "this Redis had no layout of markread: version 2 was written");
    imported.done();
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "2");
    let time: u64 = redis.run("HGET markread:cursors:1 -2").await;
    let now: (u64, u64) = redis.run("TIME").await;
    assert!(now.0 - time / 1000 < 60, "{time}");
    assert_eq!(import(&redis, lines).await.stderr.lines().count(), 1, "it is there now");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lines_are_counted_and_the_first_ten_named() {
    let redis = redis_of(2).await;
    let good = line(1, 2, 3, 4);
    let bad = [
        "x\n".to_owned(),
        "[1]\n".to_owned(),
        good.replace("\"1\"", "\"0\""),
        good.replace("\"2\"", "\"9223372036854775808\""),
        good.replace("\"3\"", "3.0"),
        good.replace("\"3\"", "\"03\""),
        good.replace(":4", ":-4"),
        good.replace("read_at_ms", "time"),
        good.replace("\"reader_id\":\"1\",", ""),
        format!("{}\n", "y".repeat(5_000)),
        "{\n".to_owned(),
        "\u{1b}[2J\n".to_owned(),
    ];
    let mut text = String::new();
    for (n, bad) in bad.iter().enumerate() {
        text += &line(1, 100 + u64::try_from(n).unwrap(), 3, 4);
        text += bad;
        text += "\n";
    }
    let imported = import(&redis, &text).await;
    let said = imported.said();
    let named: Vec<_> = said.iter().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(named.len(), 10, "{said:?}");
    for (n, line) in named.iter().enumerate() {
        assert!(line.starts_with(&format!("line {}: ", 3 * n + 2)), "{line}");
    }
    for (line, problem) in named.iter().zip([
        "not a JSON object",
        "not a JSON object but an array",
        "reader_id is zero",
        "recipient_id is too large",
        "floating point",
        "last_read_event_id is not a number",
        "integer `-4`",
        "unknown field `time`",
        "missing field `reader_id`",
        "longer than 4096 bytes",
    ]) {
        assert!(line.contains(problem), "{line}");
    }
    let counts = "36 lines: 12 advanced, 0 unchanged, 0 behind, 12 invalid, 0 failed";
    assert_eq!(*said.last().unwrap(), counts);
    assert!(!imported.stderr.contains('\u{1b}'));
    assert!(imported.failed().ends_with("12 lines not imported"));
    assert_eq!(redis.cursors(1).await.len(), 12, "everything else is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_and_invalid_fails_its_lines_only() {
    let (redis, _subject) = filled(2).await;
    redis.run::<()>("HSET markread:cursors:7 5 x -5 1").await;
    redis.run::<()>("SET markread:cursors:8 x").await;
    let text = line(7, 5, 6, 1) + &line(8, 5, 6, 1) + &line(9, 5, 6, 1) + &line(7, 6, 6, 1);
    let imported = import(&redis, &text).await;
    assert!(imported.said()[0].starts_with("line 1: ") && imported.said()[0].contains("CORRUPT"));
    assert!(imported.said()[1].starts_with("line 2: ") && imported.said()[1].contains("WRONGTYPE"));
    assert_eq!(
        imported.said()[2],
        "4 lines: 2 advanced, 0 unchanged, 0 behind, 0 invalid, 2 failed"
    );
    imported.failed();
    assert_eq!(redis.cursors(9).await, HashMap::from([(5, 6)]));
    let repaired =
        ["set", "--user", "7", "--recipient", "5", "--last-read-event-id", "2", "--force"];
    admin(&redis, &repaired).await.done();
    assert_eq!(redis.cursors(7).await, HashMap::from([(5, 2), (6, 6)]));
}

/// An import of standard input, whose lines come as the test writes them.
struct Import {
    process: Child,
    input: ChildStdin,
}

impl Import {
    fn start(redis: &Redis, skip_lines: &str) -> Self {
        let mut import = admin_command(&redis.url(), &["import", "-", "--skip-lines", skip_lines]);
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = import.spawn().unwrap();
        Self { input: process.stdin.take().unwrap(), process }
    }

    /// Writes lines, and waits until the last of them is there.
    async fn write(&mut self, redis: &Redis, lines: &[(u64, u64, u64, u64)]) {
        self.input.write_all(text(lines).as_bytes()).await.unwrap();
        let expected = greatest(lines);
        eventually("the lines are imported", ENDS, async || {
            for (reader, cursors) in &expected {
                let there = redis.cursors(*reader).await;
                let is_there = |(to, message)| there.get(to).is_some_and(|known| known >= message);
                if !cursors.iter().all(is_there) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until it fails. Returns the number of lines to skip that it names.
    async fn skip_lines(self) -> String {
        let Self { process, input } = self;
        let output = timeout(ENDS, process.wait_with_output()).await.expect("it ends").unwrap();
        drop(input);
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let (_, lines) = stderr.trim_end().rsplit_once("with --skip-lines ").expect(&stderr);
        lines.to_owned()
    }
}

/// Once by a signal, once since the connection is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_interrupted_twice_goes_on() {
    let redis = redis_of(2).await;
    // Pieces of 128 lines are put as they fill up.
    let all = sequence(128 * 60);
    let (first, second) = (128 * 20, 128 * 40);
    let mut import = Import::start(&redis, "0");
    import.write(&redis, &all[..first]).await;
    interrupt(&import.process);
    let skip = import.skip_lines().await;
    let done: usize = skip.parse().unwrap();
    assert!(done > 0 && done <= first, "{done} of {first} lines");

    let mut import = Import::start(&redis, &skip);
    import.write(&redis, &all[..second]).await;
    redis.run::<u64>("CLIENT KILL TYPE normal SKIPME yes").await;
    // It notices at the next piece.
    let _ = import.input.write_all(text(&all[second..]).as_bytes()).await;
    let skip = import.skip_lines().await;
    let done: usize = skip.parse().unwrap();
    assert!(done > first - 4 * 128 && done < all.len(), "{done} of {second} lines");

    let files = Files::new();
    let file = files.write("cursors.jsonl", text(&all));
    let imported = admin(&redis, &["import", &file, "--skip-lines", &skip]).await;
    assert!(imported.stderr.contains(&format!("{} lines: ", all.len())), "{imported:?}");
    imported.done();
    assert_holds(&redis, &greatest(&all)).await;
    let other = redis_of(2).await;
    super::import(&other, &text(&all)).await.done();
    let without_times = |lines: BTreeSet<String>| -> BTreeSet<String> {
        lines.iter().map(|line| line.split(",\"read_at").next().unwrap().to_owned()).collect()
    };
    assert_eq!(without_times(exported(&other).await), without_times(exported(&redis).await));
}

/// Marks and lines of the same conversations, at the same time and in opposite orders.
#[tokio::test(flavor = "multi_thread")]
async fn marks_and_an_import_at_the_same_time_end_at_the_greatest() {
    for version in [1, 2] {
        let redis = redis_of(version).await;
        let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
        server.wait_until_ready().await;
        let lines: Vec<_> = sequence(20_000).into_iter().filter(|line| line.0 == 3).collect();
        let marks: Vec<_> = sequence(12_000).into_iter().rev().filter(|line| line.0 == 3).collect();
        assert!(lines.len() > 3_000 && marks.len() > 2_000);
        let marked = async {
            let caller = server.caller(3);
            for marks in marks.chunks(50) {
                let batch: Vec<_> = marks.iter().map(|mark| (mark.1, mark.2)).collect();
                caller.mark_batch(&batch).await.unwrap();
            }
        };
        let of_lines = text(&lines);
        let (imported, ()) = tokio::join!(super::import(&redis, &of_lines), marked);
        imported.done();
        assert_holds(&redis, &greatest(&[lines, marks].concat())).await;
        let listed = admin(&redis, &["cursors", "--user", "3"]).await.done();
        assert_eq!(super::lines(&listed).len(), redis.cursors(3).await.len());
    }
}

/// The layout changes while the import is under way: it goes on under the new version.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_follows_an_upgrade_and_notices_a_flush() {
    let redis = redis_of(1).await;
    let all = sequence(128 * 30);
    let mut import = Import::start(&redis, "0");
    import.write(&redis, &all[..128 * 10]).await;
    admin(&redis, &["upgrade-layout"]).await.done();
    import.write(&redis, &all[128 * 10..128 * 20]).await;
    assert_holds(&redis, &greatest(&all[..128 * 20])).await;
    let keyed: Vec<String> = redis.run("KEYS markread:cursors:*:k*").await;
    assert!(!keyed.is_empty());
    redis.run::<()>("FLUSHALL").await;
    let _ = import.input.write_all(text(&all[128 * 20..]).as_bytes()).await;
    let Import { process, input } = import;
    let output = timeout(ENDS, process.wait_with_output()).await.expect("it ends").unwrap();
    drop(input);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no layout of markread"), "{stderr}");
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0], "no layout is written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_read_is_an_error() {
    let redis = redis_of(2).await;
    for (file, problem) in [("/nonexistent", "No such file"), ("/", "directory")] {
        let line = admin(&redis, &["import", file]).await.failed();
        assert!(
            line.contains(&format!("{file} cannot be read: ")) && line.contains(problem),
            "{line}"
        );
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
    let imported = admin(&redis, &["import", "/dev/null"]).await;
    assert!(
        imported
            .stderr
            .ends_with("0 lines: 0 advanced, 0 unchanged, 0 behind, 0 invalid, 0 failed\n")
    );
    imported.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_lines_to_skip_than_there_are_is_an_error() {
    let redis = redis_of(2).await;
    let files = Files::new();
    let file = files.write("cursors.jsonl", line(1, 2, 3, 4));
    for skip in ["2", "50"] {
        let imported = admin(&redis, &["import", &file, "--skip-lines", skip]).await;
        let line = imported.failed();
        assert_eq!(line, format!("markread: --skip-lines {skip}: there is only 1 line"));
    }
    // What was done to its end may be gone on with.
    let imported = admin(&redis, &["import", &file, "--skip-lines", "1"]).await;
    assert!(imported.stderr.contains("1 line: 0 advanced"), "{imported:?}");
    imported.done();
    assert_eq!(redis.cursors(1).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_stops_an_import_which_goes_on_later() {
    let redis = redis_of(2).await;
    let all = sequence(128 * 20);
    let mut import = Import::start(&redis, "0");
    import.write(&redis, &all[..128 * 10]).await;
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    let _ = import.input.write_all(text(&all[128 * 10..]).as_bytes()).await;
    let skip = import.skip_lines().await;
    assert_eq!(skip, "1280", "no line of a call that was refused is done");
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    super::import(&redis, &text(&all)).await.done();
    assert_holds(&redis, &greatest(&all)).await;
}
