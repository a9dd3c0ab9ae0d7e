//! HTTP/2, by h2 itself: hyper's server chooses no code of GOAWAY, resets no stream, and does not look at
//! an answer while its client does not read.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::frames::{Meter, MeteredIo, News, Progress};
use self::lifetime::{Due, Facts, Lifetime};
use self::outbox::Outbox;
use self::pipe::SHORT_PATIENCE;
use self::respond::Respond;
use super::body::RequestBody;
use super::listener::{HEADER_LIST_MAX_BYTES, Limits, Notice, Settings, jittered};
use super::pressure::Pressure;
use super::service::HttpService;
use crate::telemetry::metrics::{Bound, count_refused};

pub(super) mod frames;
mod lifetime;
mod outbox;
mod pipe;
mod respond;

/// Flow-control windows, in bytes. A request is at most 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes that h2 holds of a stream while they wait for the connection: a frame of the usual size.
const SEND_BUFFER_MAX_BYTES: usize = 16 * 1024;

/// Bytes of a connection's answers that may wait for windows. Past it, those that wait are ended soon.
const UNSENT_MAX_BYTES: usize = 1024 * 1024;

/// Returns h2's settings.
pub(super) fn builder(limits: &Limits) -> Builder {
    let mut http2 = Builder::new();
    http2
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_LIST_MAX_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_MAX_BYTES);
    http2
}

/// What a connection and its streams share.
struct Shared {
    settings: Arc<Settings>,
    meter: Meter,
    outbox: Outbox,
    /// Bytes that wait for windows.
    unsent: AtomicUsize,
    /// Cancelled at the end of the connection's age. Created with the first streaming answer.
    end: OnceLock<CancellationToken>,
}

/// Bytes that wait for a window, until this is dropped.
struct Unsent {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Shared {
    fn send_timeout(&self) -> Duration {
        self.settings.limits.send.unwrap_or(Duration::MAX)
    }

    /// Returns what is short, so that answers which their client does not read are ended soon.
    fn shortage(&self) -> Option<Bound> {
        if self.settings.pressure.now() == Pressure::Critical {
            return Some(Bound::Memory);
        }
        let unsent = self.unsent.load(Ordering::Relaxed) + self.outbox.bytes();
        (unsent > UNSENT_MAX_BYTES).then_some(Bound::SendTimeout)
    }

    fn streams_max(&self) -> usize {
        usize::try_from(self.settings.limits.streams).unwrap_or(usize::MAX)
    }

    fn hold_unsent(self: &Arc<Self>, bytes: usize) -> Unsent {
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
        Unsent { shared: Arc::clone(self), bytes }
    }

    fn end_of_streams(&self) -> CancellationToken {
        self.end.get_or_init(CancellationToken::new).clone()
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.shared.unsent.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A connection that is served. A box of its own: what it took to begin, which is as large, is freed.
type Serving = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// Begins a connection whose first bytes are the preface. Its first frame is due at `begun_by`.
///
/// # Errors
///
/// h2's. None is unusual: clients can cause all of them.
pub(super) async fn begin<T, S>(
    stream: T,
    service: S,
    settings: Arc<Settings>,
    notices: watch::Receiver<Notice>,
    begun_by: Instant,
) -> Result<Serving, h2::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let limits = Arc::clone(&settings.limits);
    let meter = Meter::new();
    let outbox = Outbox::default();
    let stream = MeteredIo::new(stream, meter.clone(), outbox.clone());
    let mut h2 = settings.http2.handshake(stream).await?;
    let pings = h2.ping_pong();
    let (unsent, end) = Default::default();
    let shared = Arc::new(Shared { settings, meter, outbox, unsent, end });
    let now = Instant::now();
    let (idle_since, outbox_watched) = (Some(now), false);
    let mut connection = Connection { h2, pings, service, shared, idle_since, outbox_watched };
    let age = limits.connection_age.map(jittered);
    let mut lifetime = Lifetime::new(limits, now, begun_by, age);
    // By reference: as arguments they would be stored twice.
    Ok(Box::pin(async move { run(&mut connection, &mut lifetime, notices).await }))
}

async fn run<T, S>(
    connection: &mut Connection<T, S>,
    lifetime: &mut Lifetime,
    mut notices: watch::Receiver<Notice>,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService,
{
    let mut alarm = pin!(sleep_until(lifetime.next(&connection.facts(&notices))));
    let mut unseen = notices.clone();
    loop {
        let is_leaving = lifetime.is_leaving();
        let event = {
            let mut changed = pin!(changed(&mut notices));
            // The alarm and the notices wake this task also if they are not polled again.
            let mut woken = None;
            poll_fn(|cx| {
                if let Poll::Ready(event) = connection.poll(cx, is_leaving) {
                    return Poll::Ready(event);
                }
                if !woken.as_ref().is_some_and(|waker: &Waker| waker.will_wake(cx.waker())) {
                    woken = Some(cx.waker().clone());
                    // Without a budget, as one that is used up would let them register nothing.
                    let both = poll_fn(|cx| {
                        let (alarm, changed) = (alarm.as_mut().poll(cx), changed.as_mut().poll(cx));
                        Poll::Ready(alarm.is_ready() || changed.is_ready())
                    });
                    let is_due = pin!(unconstrained(both)).poll(cx) == Poll::Ready(true);
                    return if is_due { Poll::Ready(Event::Look) } else { Poll::Pending };
                }
                let is_due = alarm.is_elapsed() || unseen.has_changed().unwrap_or_default();
                if is_due { Poll::Ready(Event::Look) } else { Poll::Pending }
            })
            .await
        };
        unseen.mark_unchanged();
        match event {
            Event::Ended(ended) => return ended,
            Event::Exceeded => {
                count_refused(Bound::ControlFrames);
                connection.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                lifetime.shut_down(Instant::now());
            }
            Event::Look => {}
        }
        connection.reset_stuck();
        let facts = connection.facts(&notices);
        while let Some(due) = lifetime.due(&facts) {
            if due == Due::Close {
                return Ok(());
            }
            connection.act(due);
        }
        alarm.as_mut().reset(lifetime.next(&facts));
    }
}

async fn changed(notices: &mut watch::Receiver<Notice>) {
    if notices.changed().await.is_err() {
        // The listener is gone, and with it all notices.
        pending::<()>().await;
    }
}

/// What a poll of a connection has found.
enum Event {
    Ended(Result<(), h2::Error>),
    /// The budget of control frames is exceeded.
    Exceeded,
    /// Something may be due.
    Look,
}

struct Connection<T, S> {
    h2: h2::server::Connection<MeteredIo<T>, Bytes>,
    pings: Option<PingPong>,
    service: S,
    shared: Arc<Shared>,
    /// Since when it has no stream; `None` while it has one.
    idle_since: Option<Instant>,
    /// Whether the alarm looks at answers that have ended and not left.
    outbox_watched: bool,
}

impl<T, S> Connection<T, S>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService,
{
    /// Reads, writes and begins calls until there is nothing to do, or enough for one poll.
    fn poll(&mut self, cx: &mut Context<'_>, is_leaving: bool) -> Poll<Event> {
        self.shared.meter.begin_poll();
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, reply)))) => {
                    self.shared.meter.count_call(header_bytes(request.headers()));
                    self.begin(request, reply);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Ended(Err(error))),
                Poll::Ready(None) => return Poll::Ready(Event::Ended(Ok(()))),
                Poll::Pending => break,
            }
        }
        let is_stuck = self.shared.outbox.drop_done() > 0;
        if std::mem::replace(&mut self.outbox_watched, is_stuck) != is_stuck && is_stuck {
            return Poll::Ready(Event::Look);
        }
        if self.h2.has_streams() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
            if is_leaving {
                return Poll::Ready(Event::Look);
            }
        }
        match self.shared.meter.take_news() {
            None => Poll::Pending,
            Some(News::Begun) => Poll::Ready(Event::Look),
            // h2 has handled what was read, and reads no more.
            Some(News::Exceeded) => Poll::Ready(Event::Exceeded),
        }
    }

    /// Begins a call, on a task of its own: it may panic, or take another thread.
    fn begin(&self, request: Request<RecvStream>, mut reply: SendResponse<Bytes>) {
        // h2 counts streams until their answers have ended, not until they have left.
        if self.shared.outbox.ended() >= self.shared.streams_max() {
            count_refused(Bound::SendTimeout);
            return reply.send_reset(Reason::REFUSED_STREAM);
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let call = self.service.call(request.map(|stream| RequestBody::http2(stream, length)));
        tokio::spawn(Respond::new(call, reply, Arc::clone(&self.shared)));
    }

    fn facts(&self, notices: &watch::Receiver<Notice>) -> Facts {
        let Progress { last_read, begun } = self.shared.meter.progress();
        let (idle_since, has_unsent) = (self.idle_since, self.outbox_watched);
        let now = Instant::now();
        let notice = *notices.borrow();
        Facts { now, begun, last_read, idle_since, has_unsent, notice }
    }

    /// Resets the streams of answers that have ended, and whose client does not take them.
    fn reset_stuck(&self) {
        let (limit, bound) = match self.shared.shortage() {
            Some(bound) => (SHORT_PATIENCE.min(self.shared.send_timeout()), bound),
            None => (self.shared.send_timeout(), Bound::SendTimeout),
        };
        for _ in 0..self.shared.outbox.reset_stuck(Instant::now(), limit) {
            count_refused(bound);
        }
    }

    fn act(&mut self, due: Due) {
        match due {
            Due::Ping => {
                if let Some(pings) = &mut self.pings {
                    // Makes room for the next one. Whatever is read counts as the answer.
                    let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
                    // It fails if the last one is not answered yet.
                    let _ = pings.send_ping(Ping::opaque());
                }
            }
            Due::GoAway(bound) => {
                bound.into_iter().for_each(count_refused);
                self.h2.graceful_shutdown();
            }
            Due::EndStreams => {
                count_refused(Bound::ConnectionAge);
                self.shared.end_of_streams().cancel();
            }
            Due::Shutdown(bound) => {
                bound.into_iter().for_each(count_refused);
                self.h2.abrupt_shutdown(Reason::NO_ERROR);
            }
            Due::Close => {}
        }
    }
}

/// Returns the size of a header list, as RFC 9113 section 6.5.2 counts it.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[cfg(test)]
mod tests;
