//! A client with credentials: the generated client, its answers and refusals unpacked.

use std::time::Duration;

use markread::identity::jwt::{self, ExpectedClaims, Secret};
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::{
    BatchGetReadStatesRequest, BatchGetReadStatesResponse, BatchMarkReadRequest,
    BatchMarkReadResponse, GetReadStateRequest, GetReadStateResponse, ListReadCursorsRequest,
    ListReadCursorsResponse, MarkReadRequest, ReadCursor, WatchMarkReadEventsRequest,
    WatchMarkReadEventsResponse,
};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use crate::server::SECRET;

/// How a caller authenticates.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// None.
    Nothing,
    /// The header `x-user-id`.
    UserId(u64),
    /// The value of the header `authorization`.
    Authorization(String),
}

impl Credentials {
    /// A bearer token for an hour, signed with the [`SECRET`] of the test servers.
    pub fn token_of(user: u64) -> Self {
        Self::token_by(SECRET, user)
    }

    /// A token that is signed with this secret.
    pub fn token_by(secret: &str, user: u64) -> Self {
        let secret = Secret::from_file_contents(secret.into()).unwrap();
        let user = user.try_into().unwrap();
        let token = jwt::issue(user, &secret, Duration::from_secs(3600), ExpectedClaims::default())
            .unwrap();
        Self::Authorization(format!("Bearer {token}"))
    }
}

/// A client of one connection that calls with the same credentials each time.
#[derive(Clone)]
pub struct Caller {
    client: MarkReadServiceClient<Channel>,
    credentials: Credentials,
}

/// The answer to a mark that was served.
#[derive(Debug)]
pub struct Answer {
    /// The cursor after the mark.
    pub cursor: ReadCursor,
    /// Whether the mark has moved it.
    pub advanced: bool,
    /// The headers, with what is left of the quota.
    pub metadata: MetadataMap,
}

/// The status of a call that was refused.
#[derive(Debug)]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// `ErrorInfo.reason`, or an empty string without an `ErrorInfo`.
    pub reason: String,
    /// The text for people.
    pub message: String,
    /// All details of the status.
    pub details: ErrorDetails,
    /// The headers or trailers that came with the status.
    pub metadata: MetadataMap,
}

impl Caller {
    /// A caller on this channel.
    pub fn new(channel: Channel, credentials: Credentials) -> Self {
        Self { client: MarkReadServiceClient::new(channel), credentials }
    }

    /// Marks a conversation as read, without a deadline.
    pub async fn mark(&self, recipient: u64, message: u64) -> Result<Answer, Refusal> {
        self.send(self.request(recipient, message)).await
    }

    /// A request to mark, with the credentials.
    pub fn request(&self, recipient: u64, message: u64) -> Request<MarkReadRequest> {
        self.authenticated(mark_read(recipient, message))
    }

    /// Any request message, with the credentials.
    pub fn authenticated<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        match &self.credentials {
            Credentials::Nothing => {}
            Credentials::UserId(user) => {
                metadata.insert("x-user-id", user.to_string().parse().unwrap());
            }
            Credentials::Authorization(value) => {
                metadata.insert("authorization", value.parse().unwrap());
            }
        }
        request
    }

    /// Sends a mark that was built with [`Caller::request`].
    pub async fn send(&self, request: Request<MarkReadRequest>) -> Result<Answer, Refusal> {
        let response = self.client.clone().mark_read(request).await.map_err(Refusal::from)?;
        let metadata = response.metadata().clone();
        let response = response.into_inner();
        let cursor = response.cursor.expect("every answer has a cursor");
        Ok(Answer { cursor, advanced: response.advanced, metadata })
    }

    /// Marks several conversations in one call; each mark is a recipient and a message.
    pub async fn mark_batch(
        &self,
        marks: &[(u64, u64)],
    ) -> Result<Response<BatchMarkReadResponse>, Refusal> {
        let requests = marks.iter().map(|&(recipient, message)| mark_read(recipient, message));
        let request = self.authenticated(BatchMarkReadRequest { requests: requests.collect() });
        self.client.clone().batch_mark_read(request).await.map_err(Refusal::from)
    }

    /// Reads the state of a conversation.
    pub async fn state(
        &self,
        recipient_id: u64,
    ) -> Result<Response<GetReadStateResponse>, Refusal> {
        let request = self.authenticated(GetReadStateRequest { recipient_id });
        self.client.clone().get_read_state(request).await.map_err(Refusal::from)
    }

    /// Reads the states of several conversations.
    pub async fn states(
        &self,
        recipient_ids: &[u64],
    ) -> Result<Response<BatchGetReadStatesResponse>, Refusal> {
        let recipient_ids = recipient_ids.to_vec();
        let request = self.authenticated(BatchGetReadStatesRequest { recipient_ids });
        self.client.clone().batch_get_read_states(request).await.map_err(Refusal::from)
    }

    /// Opens a watch, after a place or from now on.
    pub async fn watch(
        &self,
        after: &str,
    ) -> Result<Streaming<WatchMarkReadEventsResponse>, Refusal> {
        let request = self.authenticated(WatchMarkReadEventsRequest { after: after.to_owned() });
        let answer = self.client.clone().watch_mark_read_events(request).await;
        Ok(answer.map_err(Refusal::from)?.into_inner())
    }

    /// Lists a page of the caller's cursors.
    pub async fn page(
        &self,
        page_size: i32,
        token: &str,
    ) -> Result<Response<ListReadCursorsResponse>, Refusal> {
        let page_token = token.to_owned();
        let request = self.authenticated(ListReadCursorsRequest { page_size, page_token });
        self.client.clone().list_read_cursors(request).await.map_err(Refusal::from)
    }
}

fn mark_read(recipient_id: u64, last_read_event_id: u64) -> MarkReadRequest {
    MarkReadRequest { last_read_event_id, recipient_id }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        if let Some(info) = details.error_info() {
            assert_eq!(info.domain, "markread");
        }
        Self {
            code: status.code(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            details,
            metadata: status.metadata().clone(),
        }
    }
}

/// The value of a header that holds a number.
pub fn number(metadata: &MetadataMap, name: &str) -> i64 {
    let value = metadata.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    value.to_str().unwrap().parse().unwrap()
}
