//! A caller: the generated client, and answers in the words of the contract.

use std::time::Duration;

use markread::identity::jwt::{self, Expected, Secret};
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::{
    BatchGetReadStatesRequest, BatchGetReadStatesResponse, BatchMarkReadRequest,
    BatchMarkReadResponse, GetReadStateRequest, GetReadStateResponse, ListReadCursorsRequest,
    ListReadCursorsResponse, MarkReadRequest, ReadCursor,
};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::server::SECRET;

/// What a caller sends to say who it is.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Nothing,
    UserId(u64),
    /// The whole `authorization` header.
    Authorization(String),
}

impl Credentials {
    /// A token of an hour that test servers take.
    pub(crate) fn token_of(user: u64) -> Self {
        let secret = Secret::from_file_contents(SECRET.into()).unwrap();
        let user = user.try_into().unwrap();
        let token =
            jwt::issue(user, &secret, Duration::from_secs(3600), Expected::default()).unwrap();
        Self::Authorization(format!("Bearer {token}"))
    }
}

#[derive(Clone)]
pub(crate) struct Caller {
    client: MarkReadServiceClient<Channel>,
    credentials: Credentials,
}

/// A call that was answered OK.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) cursor: ReadCursor,
    pub(crate) advanced: bool,
    pub(crate) metadata: MetadataMap,
}

/// A call that was refused.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) code: Code,
    /// `ErrorInfo.reason`, empty where there is none.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: ErrorDetails,
    pub(crate) metadata: MetadataMap,
}

impl Caller {
    pub(crate) fn new(channel: Channel, credentials: Credentials) -> Self {
        Self { client: MarkReadServiceClient::new(channel), credentials }
    }

    /// Marks, without a deadline of the caller's own.
    pub(crate) async fn mark(&self, recipient: u64, message: u64) -> Result<Answer, Denied> {
        self.send(self.request(recipient, message)).await
    }

    pub(crate) fn request(&self, recipient: u64, message: u64) -> Request<MarkReadRequest> {
        self.authenticated(mark_read(recipient, message))
    }

    /// Any message, with what the caller sends to say who it is.
    pub(crate) fn authenticated<T>(&self, message: T) -> Request<T> {
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

    pub(crate) async fn send(&self, request: Request<MarkReadRequest>) -> Result<Answer, Denied> {
        let response = self.client.clone().mark_read(request).await.map_err(Denied::from)?;
        let metadata = response.metadata().clone();
        let response = response.into_inner();
        let cursor = response.cursor.expect("a cursor in every answer");
        Ok(Answer { cursor, advanced: response.advanced, metadata })
    }

    /// Marks in one call: a recipient and a message each.
    pub(crate) async fn mark_batch(
        &self,
        marks: &[(u64, u64)],
    ) -> Result<Response<BatchMarkReadResponse>, Denied> {
        let requests = marks.iter().map(|&(recipient, message)| mark_read(recipient, message));
        let request = self.authenticated(BatchMarkReadRequest { requests: requests.collect() });
        self.client.clone().batch_mark_read(request).await.map_err(Denied::from)
    }

    pub(crate) async fn state(
        &self,
        recipient_id: u64,
    ) -> Result<Response<GetReadStateResponse>, Denied> {
        let request = self.authenticated(GetReadStateRequest { recipient_id });
        self.client.clone().get_read_state(request).await.map_err(Denied::from)
    }

    pub(crate) async fn states(
        &self,
        recipient_ids: &[u64],
    ) -> Result<Response<BatchGetReadStatesResponse>, Denied> {
        let recipient_ids = recipient_ids.to_vec();
        let request = self.authenticated(BatchGetReadStatesRequest { recipient_ids });
        self.client.clone().batch_get_read_states(request).await.map_err(Denied::from)
    }

    /// A page of cursors: of what size, and after which token.
    pub(crate) async fn page(
        &self,
        page_size: i32,
        token: &str,
    ) -> Result<Response<ListReadCursorsResponse>, Denied> {
        let page_token = token.to_owned();
        let request = self.authenticated(ListReadCursorsRequest { page_size, page_token });
        self.client.clone().list_read_cursors(request).await.map_err(Denied::from)
    }
}

fn mark_read(recipient_id: u64, last_read_event_id: u64) -> MarkReadRequest {
    MarkReadRequest { last_read_event_id, recipient_id }
}

impl From<Status> for Denied {
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

/// A number in an answer's metadata.
pub(crate) fn number(metadata: &MetadataMap, name: &str) -> i64 {
    let value = metadata.get(name).unwrap_or_else(|| panic!("{name} is there"));
    value.to_str().unwrap().parse().unwrap()
}
