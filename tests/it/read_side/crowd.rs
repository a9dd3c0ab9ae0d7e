//! Thousands of watchers that come at the same moment, as after the end of another server.

use std::time::Duration;

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

const WATCHERS: usize = 5000;

/// Fewer than the streams that a connection may have.
const WATCHERS_PER_CONNECTION: usize = 200;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn five_thousand_watchers_at_once_share_reads_of_the_backlog() {
    let redis = Redis::start().await;
    // A debug build on a busy machine takes longer than the default call timeout.
    // Half of the watchers are the same user.
    let flags = ["--call-timeout", "30s", "--reader-concurrency", "0"];
    let server = Server::on_with(&redis, &flags).await;
    server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    let place: Vec<(String, Vec<String>)> =
        redis.run("XRANGE direct_message_mark_read_events - +").await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let ranges = redis.calls("xrange").await;

    let channels: Vec<Channel> =
        (0..WATCHERS / WATCHERS_PER_CONNECTION).map(|_| server.channel()).collect();
    let mut watching = JoinSet::new();
    for at in 0..WATCHERS {
        let channel = channels[at / WATCHERS_PER_CONNECTION].clone();
        let after = place[0].0.clone();
        // Half of the watchers are concerned by the marks.
        let user = if at % 2 == 0 { RECIPIENT } else { u64::try_from(at).unwrap() };
        watching.spawn(async move {
            let caller = Caller::new(channel.clone(), Credentials::token_of(user));
            let request = caller.authenticated(WatchMarkReadEventsRequest { after });
            let mut client = MarkReadServiceClient::new(channel);
            let mut updates = client.watch_mark_read_events(request).await?.into_inner();
            if user == RECIPIENT {
                let first = updates.message().await?.unwrap().update;
                let expected = matches!(&first, Some(Update::Event(event))
                    if event.last_read_event_id == MESSAGE);
                assert!(expected, "{first:?}");
            }
            Ok::<_, tonic::Status>(updates)
        });
    }
    let opened = timeout(LIMIT, watching.join_all()).await.expect("all are accepted in time");
    let refused: Vec<_> = opened.iter().filter_map(|opened| opened.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} refused, as by {:?}", refused.len(), refused[0]);
    let reads = redis.calls("xrange").await - ranges;
    assert!(reads <= 5, "{reads} reads of the backlog");
    let clients: String = redis.run("INFO clients").await;
    assert!(clients.contains("blocked_clients:1\r\n"), "{clients}");
}
