//! `WatchMarkReadEvents`: a subscription as the stream of a call's answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::{Response, Status};

use super::{bad_field, timestamp};
use crate::domain::{Event, Flaw, InvalidPosition, Refusal, WatchPosition};
use crate::edge::answer::grpc::status;
use crate::edge::answer::insert_rate_limit;
use crate::edge::arrival::{Arrival, Caller};
use crate::edge::places::Place;
use crate::net::stream_control::StreamControl;
use crate::proto;
use crate::proto::watch_mark_read_events_response::Update as Message;
use crate::service::Service;
use crate::service::watch::{Subscription, Update};

pub(in crate::edge) async fn watch(
    service: &Arc<Service>,
    arrival: &Arrival,
    caller: Caller,
    place: Place,
    message: proto::WatchMarkReadEventsRequest,
) -> Result<Response<Updates>, Status> {
    let after = match message.after.as_str() {
        "" => None,
        after => {
            let after = after.parse();
            Some(after.map_err(|problem: InvalidPosition| status(bad_field("after", problem)))?)
        }
    };
    let opened = service.watch(caller.reader, after, arrival.deadline.server).await;
    let (subscription, quota) = opened.map_err(status)?;
    let control = StreamControl::default();
    let updates =
        Updates::new(subscription, Arc::clone(service), caller.expires_at, place, control.clone());
    let mut response = Response::new(updates);
    insert_rate_limit(response.metadata_mut().as_mut(), quota);
    response.extensions_mut().insert(control);
    Ok(response)
}

/// The answers of one watch. It ends when the caller's token expires, the watcher is too slow or its
/// connection has reached its age, also while the client does not read.
pub(in crate::edge) struct Updates {
    subscription: Subscription,
    service: Arc<Service>,
    expiry: Option<Pin<Box<Sleep>>>,
    control: StreamControl,
    last: Option<WatchPosition>,
    farewell_sent: bool,
    ended: bool,
    /// Counts among the reader's watches.
    _place: Place,
}

impl Updates {
    fn new(
        subscription: Subscription,
        service: Arc<Service>,
        expires_at: Option<SystemTime>,
        place: Place,
        control: StreamControl,
    ) -> Self {
        let expiry = expires_at.map(|expires_at| {
            let left = expires_at.duration_since(SystemTime::now()).unwrap_or_default();
            Box::pin(sleep(left))
        });
        let (last, farewell_sent, ended) = Default::default();
        Self { subscription, service, expiry, control, last, farewell_sent, ended, _place: place }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Refusal>> {
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
            let flaw = Flaw::Token("the token has expired");
            return Poll::Ready(Err(Refusal::CredentialsInvalid(flaw)));
        }
        if self.control.is_ending() {
            return Poll::Ready(self.farewell().ok_or(Refusal::ConnectionAge));
        }
        if self.control.is_stalled() {
            return self.subscription.poll_overflow(cx).map(|()| self.message(None));
        }
        self.subscription.poll_next(cx).map(|update| self.message(update))
    }

    /// Returns a last heartbeat, once, so that the next watch goes on where this one ends.
    fn farewell(&mut self) -> Option<Message> {
        if self.control.is_stalled() || std::mem::replace(&mut self.farewell_sent, true) {
            return None;
        }
        let unsent = self.subscription.unsent_heartbeat();
        let id = self.subscription.position().or(unsent).or_else(|| self.last.clone())?.to_string();
        Some(Message::Heartbeat(proto::WatchHeartbeat { id }))
    }

    fn message(&mut self, update: Option<Update>) -> Result<Message, Refusal> {
        match update {
            Some(Update::Event { partition, event, .. }) => {
                let position = WatchPosition::of_event(partition, event.position);
                let message = event_message(&position, &event);
                self.last = Some(position);
                Ok(Message::Event(message))
            }
            Some(Update::Heartbeat(position)) => {
                let id = position.to_string();
                self.last = Some(position);
                Ok(Message::Heartbeat(proto::WatchHeartbeat { id }))
            }
            Some(Update::Gap) => {
                let message = "events may be lost: the stream goes on with the oldest entry";
                Ok(Message::Gap(proto::WatchGap { message: message.to_owned() }))
            }
            Some(Update::OverQuota { quota, retry_after }) => {
                Err(Refusal::OverQuota { quota, retry_after })
            }
            Some(Update::Failed(error)) => Err(self.service.log_refusal(&error)),
            None => {
                let last = self.subscription.unsent_heartbeat().or_else(|| self.last.take());
                let resume_after = last.map(|last| last.to_string()).unwrap_or_default();
                Err(Refusal::WatcherTooSlow { resume_after })
            }
        }
    }
}

impl Stream for Updates {
    type Item = Result<proto::WatchMarkReadEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.poll_message(cx));
        self.ended = message.is_err();
        let message =
            message.map(|update| proto::WatchMarkReadEventsResponse { update: Some(update) });
        Poll::Ready(Some(message.map_err(status)))
    }
}

fn event_message(position: &WatchPosition, event: &Event) -> proto::MarkReadEvent {
    let Event { mark, created_ms, .. } = *event;
    proto::MarkReadEvent {
        id: position.to_string(),
        sender_id: mark.reader.get(),
        recipient_id: mark.recipient.get(),
        last_read_event_id: mark.last_read_event_id.get(),
        created_at: Some(timestamp(created_ms)),
    }
}
