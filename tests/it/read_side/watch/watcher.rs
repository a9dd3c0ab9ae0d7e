//! The client of a watch.

use std::time::Duration;

use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread::proto::{MarkReadEvent, WatchMarkReadEventsRequest, WatchMarkReadEventsResponse};
use markread_harness::Server;
use markread_harness::caller::{Credentials, Refusal};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::LIMIT;

/// An open watch on its own connection.
pub(crate) struct Watcher(pub(super) Streaming<WatchMarkReadEventsResponse>);

impl Watcher {
    /// Opens a watch after this place, with any credentials.
    pub(crate) async fn try_open(
        server: &Server,
        credentials: Credentials,
        after: &str,
    ) -> Result<Self, Refusal> {
        let mut request =
            tonic::Request::new(WatchMarkReadEventsRequest { after: after.to_owned() });
        let metadata = request.metadata_mut();
        match credentials {
            Credentials::Authorization(value) => {
                metadata.insert("authorization", value.parse().unwrap());
            }
            Credentials::UserId(user) => {
                metadata.insert("x-user-id", user.to_string().parse().unwrap());
            }
            Credentials::Nothing => {}
        }
        // A small window, so that updates which the client does not read wait at the server.
        let address = format!("http://{}", server.address);
        let endpoint = Endpoint::from_shared(address).unwrap();
        let channel = endpoint.initial_stream_window_size(16 * 1024).connect_lazy();
        let mut client = MarkReadServiceClient::new(channel);
        Ok(Self(client.watch_mark_read_events(request).await?.into_inner()))
    }

    /// Opens a watch from now on, and returns its place.
    pub(crate) async fn open(server: &Server, user: u64) -> (Self, String) {
        let mut watcher = Self::after(server, user, "").await;
        let Update::Heartbeat(heartbeat) = watcher.next().await else {
            panic!("the first update is not a heartbeat")
        };
        (watcher, heartbeat.id)
    }

    /// Opens a watch after this place.
    pub(crate) async fn after(server: &Server, user: u64, after: &str) -> Self {
        Self::try_open(server, Credentials::token_of(user), after).await.unwrap()
    }

    /// The next update.
    pub(crate) async fn next(&mut self) -> Update {
        let message = timeout(LIMIT, self.0.message()).await.expect("an update in time");
        message.unwrap().expect("an update").update.expect("a known update")
    }

    /// The next event, skipping heartbeats.
    pub(crate) async fn event(&mut self) -> MarkReadEvent {
        loop {
            match self.next().await {
                Update::Event(event) => return event,
                Update::Heartbeat(_) => {}
                Update::Gap(gap) => panic!("{gap:?}"),
            }
        }
    }

    /// Reads to the end, and returns the status.
    pub(crate) async fn end(mut self) -> Refusal {
        let end = async {
            loop {
                match self.0.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the watch ended without a status"),
                    Err(status) => return Refusal::from(status),
                }
            }
        };
        timeout(LIMIT, end).await.expect("the watch ends in time")
    }

    /// Asserts that no event comes for a while.
    pub(crate) async fn hears_nothing(&mut self) {
        let events = timeout(Duration::from_millis(500), self.event()).await;
        assert!(events.is_err(), "{events:?}");
    }
}

/// Reader, recipient and message of an event.
pub(crate) fn ids(event: &MarkReadEvent) -> (u64, u64, u64) {
    (event.sender_id, event.recipient_id, event.last_read_event_id)
}
