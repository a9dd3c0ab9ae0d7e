//! A watcher hears the events of all partitions, and of a loss in any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread::proto::{WatchMarkReadEventsRequest, WatchMarkReadEventsResponse};
use markread_harness::cluster::partition_of;
use markread_harness::{RedisCluster, Server};
use tokio::time::timeout;
use tonic::Streaming;

use crate::{PARTITIONS, one_reader_each};

const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// The watcher: the recipient of all marks.
const WATCHER: u64 = 4_242;

/// For an update that is under way.
const LIMIT: Duration = Duration::from_secs(20);

struct Watcher(Streaming<WatchMarkReadEventsResponse>);

impl Watcher {
    async fn after(server: &Server, after: &str) -> Self {
        let caller = server.caller(WATCHER);
        let request = WatchMarkReadEventsRequest { after: after.to_owned() };
        let request = caller.authenticated(request);
        let mut client = MarkReadServiceClient::new(server.channel());
        Self(client.watch_mark_read_events(request).await.unwrap().into_inner())
    }

    async fn next(&mut self) -> Update {
        let next = timeout(LIMIT, self.0.message()).await.expect("an update comes");
        next.unwrap().expect("the watch goes on").update.unwrap()
    }

    /// The IDs of events by their readers, until there is one of each; repeats are allowed.
    async fn events_of(&mut self, readers: &[u64], message: u64) -> BTreeMap<u64, String> {
        let mut ids = BTreeMap::new();
        while ids.len() < readers.len() {
            if let Update::Event(event) = self.next().await
                && event.last_read_event_id == message
            {
                assert_eq!(event.recipient_id, WATCHER);
                ids.insert(event.sender_id, event.id);
            }
        }
        ids
    }
}

async fn mark_by_all(server: &Server, readers: &[u64], message: u64) {
    for &reader in readers {
        assert!(server.caller(reader).mark(WATCHER, message).await.unwrap().advanced);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_every_partition_and_resumes_without_a_loss() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let readers = one_reader_each();
    let mut watcher = Watcher::after(&server, "").await;
    let Update::Heartbeat(first) = watcher.next().await else { panic!("no heartbeat comes first") };
    mark_by_all(&server, &readers, MESSAGE).await;
    let ids = watcher.events_of(&readers, MESSAGE).await;
    for (&reader, id) in &ids {
        let partition = partition_of(reader, PARTITIONS);
        assert!(id.starts_with(&format!("{partition}-")), "{id} is of partition {partition}");
    }
    assert_eq!(ids.values().collect::<BTreeSet<_>>().len(), readers.len());

    // From the heartbeat on, and from an event in the middle on: what came later is heard in any case.
    mark_by_all(&server, &readers, MESSAGE + 1).await;
    let middle = ids[&readers[31]].clone();
    for after in [first.id, middle] {
        let mut resumed = Watcher::after(&server, &after).await;
        resumed.events_of(&readers, MESSAGE + 1).await;
    }
    // Another server tells the same IDs.
    let other = Server::on_cluster(&cluster, &[]).await;
    let mut oldest = Watcher::after(&other, "0-0").await;
    assert_eq!(oldest.events_of(&readers, MESSAGE).await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_one_master_is_a_gap_for_watchers() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let readers = one_reader_each();
    let mut watcher = Watcher::after(&server, "").await;
    mark_by_all(&server, &readers, MESSAGE).await;
    watcher.events_of(&readers, MESSAGE).await;
    cluster.node(1).run::<()>("FLUSHALL").await;
    let message = loop {
        match watcher.next().await {
            Update::Gap(gap) => break gap.message,
            Update::Event(_) | Update::Heartbeat(_) => {}
        }
    };
    println!("gap: {message}");
    // Layout keys are written again, and all partitions are heard.
    server.wait_until_ready().await;
    mark_by_all(&server, &readers, MESSAGE + 1).await;
    watcher.events_of(&readers, MESSAGE + 1).await;
    assert_eq!(cluster.keys("markread:{*}:layout").await.len(), usize::from(PARTITIONS));
}
