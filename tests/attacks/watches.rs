//! Watches that resume far behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Caller, Credentials};
use tokio::time::{sleep, timeout};

use crate::calls::{ATTACKER, watch};
use crate::case::{Case, case};
use crate::http2::{Connection, Reading};
use crate::stage::Stage;

const ENTRIES: u64 = 300_000;

/// The user that the entry 30,000 before the end is for, and nobody else's.
const WATCHER: u64 = 6_670_000_001;

/// The ID of that entry.
const BEHIND: u64 = ENTRIES - 30_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("watches: abandoned", abandoned),
        // Each of its readers has fewer than a reader may have.
        case!("watches: 200 from the oldest entry", kept).p50_times(2.0),
    ]
}

/// Fills the stream with events of users who do not watch, with the IDs `1-0` and so on.
async fn fill(stage: &Stage) {
    const SCRIPT: &str = r#"
        local function event(sender, message)
            return '{"direct_message_mark_read_events":[{"created_timestamp":"1","sender_id":"' .. sender ..
                '","last_read_event_id":"' .. message .. '","target":{"recipient_id":"2"}}],"users":{"2":{"id":"2"},"' ..
                sender .. '":{"id":"' .. sender .. '"}}}'
        end
        for id = tonumber(ARGV[1]), tonumber(ARGV[2]) do
            local sender = 1000 + id % 1000
            if id == tonumber(ARGV[3]) + 1 then sender = ARGV[4] end
            redis.call('XADD', KEYS[1], id .. '-0', 'payload', event(sender, id))
        end"#;
    let mut connection = stage.redis.connection().await;
    for first in (1..=ENTRIES).step_by(10_000) {
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(1).arg("direct_message_mark_read_events");
        eval.arg(first).arg(first + 9999).arg(BEHIND).arg(WATCHER);
        eval.query_async::<()>(&mut connection).await.unwrap();
    }
    // What reads new entries reads these, and is done before anything is measured.
    sleep(Duration::from_secs(3)).await;
}

/// Reads of the stream in ranges, so far.
async fn scans(stage: &Stage) -> u64 {
    stage.redis.calls("xrange").await
}

/// One token opens 256 watches of the whole stream and hangs up after a second. Bound: a scan ends with
/// its caller; one is made at a time for a reader, four for all.
async fn abandoned(stage: Arc<Stage>) {
    fill(&stage).await;
    let watch = watch(ATTACKER, "0-0");
    let attack = async {
        let window = 1 << 20;
        let mut one = Connection::open(stage.address(), window, Reading::All).await.unwrap();
        one.begin(256, |stream| watch.complete(stream)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        drop(one);
        sleep(Duration::from_millis(300)).await;
        let at_the_end = scans(&stage).await;
        sleep(Duration::from_secs(2)).await;
        let later = scans(&stage).await - at_the_end;
        stage.check(later == 0, format!("no scan 300 ms after they hung up: {later} in 2 s"));
    };
    stage.attack(attack).await;
}

/// Four readers open 50 watches each of the whole stream, and keep them. Beside them one watcher is
/// 30,000 entries behind. Bound: scans take turns with marks, and with each other.
async fn kept(stage: Arc<Stage>) {
    fill(&stage).await;
    let attack = async {
        let mut held = Vec::new();
        for reader in 0..4 {
            let watch = watch(ATTACKER + reader, "0-0");
            let window = 1 << 20;
            let mut one = Connection::open(stage.address(), window, Reading::All).await.unwrap();
            one.begin(50, |stream| watch.complete(stream)).await.unwrap();
            held.push(one);
        }
        sleep(Duration::from_millis(200)).await;
        let took = first_event(&stage).await;
        let in_time = took.is_some_and(|took| took <= Duration::from_secs(2));
        stage.check(in_time, format!("30,000 entries are caught up within 2 s: {took:?}"));
        sleep(Duration::from_secs(3)).await;
        held
    };
    stage.attack(attack).await;
}

/// How long the watcher that is behind waits for its event.
async fn first_event(stage: &Stage) -> Option<Duration> {
    let began = Instant::now();
    let caller = Caller::new(stage.server.channel(), Credentials::token_of(WATCHER));
    let request = WatchMarkReadEventsRequest { after: format!("{BEHIND}-0") };
    let mut client = MarkReadServiceClient::new(stage.server.channel());
    let wait = async {
        let request = caller.authenticated(request);
        let mut events = client.watch_mark_read_events(request).await.ok()?.into_inner();
        while let Ok(Some(message)) = events.message().await {
            if matches!(message.update, Some(Update::Event(_))) {
                return Some(began.elapsed());
            }
        }
        None
    };
    timeout(Duration::from_secs(10), wait).await.ok().flatten()
}
