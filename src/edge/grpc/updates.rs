//! What a watcher is told, as the stream of its call's answers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::Status;

use super::timestamp;
use crate::domain::{EntryId, Event};
use crate::edge::answer::{Flaw, Refusal};
use crate::proto;
use crate::proto::watch_mark_read_events_response::Update as Answer;
use crate::service::Service;
use crate::service::watch::{Update, Watching};

/// The answers of one call. It ends with its token, or when the watcher is too slow.
pub struct Updates {
    watching: Watching,
    service: std::sync::Arc<Service>,
    expiry: Option<Pin<Box<Sleep>>>,
    last: Option<EntryId>,
    ended: bool,
}

impl Updates {
    pub(super) fn new(
        watching: Watching,
        service: std::sync::Arc<Service>,
        until: Option<SystemTime>,
    ) -> Self {
        let expiry = until.map(|until| {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            Box::pin(sleep(left))
        });
        Self { watching, service, expiry, last: None, ended: false }
    }

    fn answer(&mut self, update: Option<Update>) -> Result<Answer, Refusal> {
        match update {
            Some(Update::Event(event)) => {
                self.last = Some(event.id);
                Ok(Answer::Event(event.into()))
            }
            Some(Update::Heartbeat(id)) => {
                self.last = Some(id);
                Ok(Answer::Heartbeat(proto::WatchHeartbeat { id: id.to_string() }))
            }
            Some(Update::Gap) => {
                let message = "events may be lost: what follows begins with the oldest".to_owned();
                Ok(Answer::Gap(proto::WatchGap { message }))
            }
            Some(Update::Failed(error)) => Err(self.service.refuse(&error)),
            None => {
                let resume_after = self.last.map(|id| id.to_string()).unwrap_or_default();
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
        let expired =
            self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready());
        let answer = if expired {
            Err(Refusal::CredentialsInvalid(Flaw::Token("the token has expired")))
        } else {
            let Poll::Ready(update) = self.watching.poll_next(cx) else { return Poll::Pending };
            self.answer(update)
        };
        self.ended = answer.is_err();
        let answer =
            answer.map(|update| proto::WatchMarkReadEventsResponse { update: Some(update) });
        Poll::Ready(Some(answer.map_err(Refusal::into_grpc)))
    }
}

impl From<Event> for proto::MarkReadEvent {
    fn from(Event { id, mark, created_ms }: Event) -> Self {
        Self {
            id: id.to_string(),
            sender_id: mark.reader.get(),
            recipient_id: mark.recipient.get(),
            last_read_event_id: mark.last_read_event_id.get(),
            created_at: Some(timestamp(created_ms)),
        }
    }
}
