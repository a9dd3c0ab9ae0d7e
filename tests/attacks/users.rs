//! User objects that are large.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::MESSAGE;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::calls::ATTACKER;
use crate::case::{Case, case};
use crate::stage::Stage;

const KIB: usize = 1024;

/// The stream of events, whose size in Redis is measured.
const STREAM: &str = "direct_message_mark_read_events";

pub(crate) fn cases() -> Vec<Case> {
    let quota = "--rate-limit 1000000";
    vec![
        case!("users: objects of 64 KiB", too_large).flags(quota),
        // A call with 1 MiB of objects keeps Redis for 10 ms and more: its size is the bound.
        case!("users: 500 objects in a batch", many).flags(quota).p50_times(10.0),
        case!("users: the stream in bytes", bytes_of_stream)
            .flags(quota)
            .flags("--stream-max-bytes 8MiB"),
    ]
}

/// Stores an object of so many bytes.
async fn put(stage: &Stage, user: u64, bytes: usize) {
    let start = format!(r#"{{"id":"{user}","description":""#);
    let text = "x".repeat(bytes - start.len() - 2);
    stage.redis.put_user(user, format!(r#"{start}{text}"}}"#).as_bytes()).await;
}

async fn stream_bytes(stage: &Stage) -> usize {
    stage.redis.run(&format!("MEMORY USAGE {STREAM} SAMPLES 0")).await
}

/// The payload of the newest event.
async fn newest(stage: &Stage) -> String {
    let entries: Vec<(String, Vec<String>)> =
        stage.redis.run(&format!("XREVRANGE {STREAM} + - COUNT 1")).await;
    entries.into_iter().next().expect("there is an event").1.swap_remove(1)
}

/// Marks between users whose objects have 64 KiB, and one whose recipient's has 15. Bound:
/// `--user-object-max-bytes`, 16 KiB by default; of a larger one only the ID is in the event.
async fn too_large(stage: Arc<Stage>) {
    const MARKS: u64 = 400;
    put(&stage, ATTACKER, 64 * KIB).await;
    for recipient in 1..=100 {
        put(&stage, recipient, 64 * KIB).await;
    }
    let (reader, twin) = (ATTACKER + 1, 101);
    put(&stage, twin, 15 * KIB).await;
    let attack = async {
        let before = stream_bytes(&stage).await;
        let caller = stage.server.caller(ATTACKER);
        let theirs = stage.neighbours_marks();
        for marks in 0..MARKS {
            caller.mark(1 + marks % 100, 1 + marks).await.unwrap();
        }
        // Those of the neighbour, 0.5 KiB each, do not count.
        let theirs = 512 * (stage.neighbours_marks() - theirs);
        let bytes = (stream_bytes(&stage).await - before).saturating_sub(theirs);
        let each = bytes / MARKS as usize;
        stage.check(each <= KIB, format!("a mark adds at most 1 KiB: {each} bytes"));
        stage.server.caller(reader).mark(twin, MESSAGE).await.unwrap();
        let all: Vec<String> = stage.redis.payloads().await;
        let shown = all.iter().any(|payload| payload.contains(&"x".repeat(14 * KIB)));
        stage.check(shown, "an object of 15 KiB appears in its event");
    };
    stage.attack(attack).await;
}

/// Batches of 500 marks whose recipients have objects of 15 KiB. Bound: 1 MiB of user objects in a call.
async fn many(stage: Arc<Stage>) {
    const BATCHES: u64 = 3;
    for recipient in 1..=500 {
        put(&stage, recipient, 15 * KIB).await;
    }
    let attack = async {
        let before = stream_bytes(&stage).await;
        let theirs = stage.neighbours_marks();
        for message in 1..=BATCHES {
            let marks: Vec<_> = (1..=500).map(|recipient| (recipient, message)).collect();
            stage.server.caller(ATTACKER).mark_batch(&marks).await.unwrap();
        }
        let theirs = 512 * (stage.neighbours_marks() - theirs);
        let bytes = (stream_bytes(&stage).await - before).saturating_sub(theirs);
        let each = bytes / BATCHES as usize / KIB;
        stage.check(each <= 2 * KIB, format!("a batch adds at most 2 MiB: {each} KiB"));
        stage.check(newest(&stage).await.len() < 20 * KIB, "an event has few objects");
    };
    stage.attack(attack).await;
}

/// 2,000 marks whose events have 30 KiB each. Bound: `--stream-max-bytes`.
async fn bytes_of_stream(stage: Arc<Stage>) {
    put(&stage, ATTACKER, 15 * KIB).await;
    for recipient in 1..=10 {
        put(&stage, recipient, 15 * KIB).await;
    }
    let attack = async {
        let mut marking = JoinSet::new();
        for recipient in 1..=10 {
            let caller = stage.server.caller(ATTACKER);
            marking.spawn(async move {
                for message in 1..=200 {
                    let _ = caller.mark(recipient, message).await;
                    // Two seconds in all: the stream's size is measured once a second.
                    sleep(Duration::from_millis(10)).await;
                }
            });
        }
        marking.join_all().await;
        let mib = stream_bytes(&stage).await as f64 / (KIB * KIB) as f64;
        stage.check(mib <= 16.0, format!("the stream has at most 16 MiB: {mib:.1}"));
    };
    stage.attack(attack).await;
}
