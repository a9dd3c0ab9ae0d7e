//! A device that hears a user's events, and resumes where it was after each loss of its stream.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use markread::proto::MarkReadEvent;
use markread::proto::watch_mark_read_events_response::Update as Sent;
use markread_harness::caller::{Caller, Credentials, Refusal};
use markread_harness::eventually;
use rand::Rng;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{Clock, Connection, Population};
use crate::history::{Conversation, Event, Update, Watch};

/// The longest time until a watch is open, or has failed to.
const OPEN_LIMIT: Duration = Duration::from_secs(3);

const START_LIMIT: Duration = Duration::from_secs(30);

const PAUSE_AFTER_FAILURE_MS: std::ops::Range<u64> = 20..150;

/// A watcher that runs until it is dropped.
pub(super) struct Watcher {
    shared: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

/// What a watcher knows.
struct Heard {
    watch: Watch,
    /// The `id` of the last event or heartbeat: empty before the first.
    place: String,
    /// Whether the stream is a new one, on which nothing came yet.
    is_resumed: bool,
}

impl Watcher {
    /// Begins to watch a user's events.
    pub(super) fn start(
        user: u64,
        connection: Connection,
        began: Instant,
        population: &Population,
    ) -> Self {
        let watch = Watch { user, ..Watch::default() };
        let heard = Heard { watch, place: String::new(), is_resumed: false };
        let shared = Arc::new(Mutex::new(heard));
        let credentials = population.credentials(user);
        let task = tokio::spawn(run(Arc::clone(&shared), connection, Clock(began), credentials));
        Self { shared, task }
    }

    /// Waits for the first heartbeat.
    pub(super) async fn wait_until_open(&self) {
        eventually("a watch is open", START_LIMIT, async || {
            (!self.shared.lock().unwrap().place.is_empty()).then_some(())
        })
        .await;
    }

    /// What it has heard so far.
    pub(super) fn heard(&self) -> Watch {
        self.shared.lock().unwrap().watch.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    shared: Arc<Mutex<Heard>>,
    mut connection: Connection,
    clock: Clock,
    credentials: Credentials,
) {
    loop {
        let after = shared.lock().unwrap().place.clone();
        let caller = Caller::new(connection.channel(), credentials.clone());
        let opened = timeout(OPEN_LIMIT, caller.watch(&after)).await;
        match opened {
            Ok(Ok(mut stream)) => {
                shared.lock().unwrap().is_resumed = !after.is_empty();
                while let Ok(Some(update)) = stream.message().await {
                    let sent = update.update.expect("a message has an update");
                    shared.lock().unwrap().note(sent, clock);
                }
            }
            Ok(Err(refusal)) => assert_may_resume(&refusal, &after),
            Err(_) => {}
        }
        connection.move_on();
        let pause_ms = connection.random.random_range(PAUSE_AFTER_FAILURE_MS);
        sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// A place that a server gave is good at each of them.
fn assert_may_resume(refusal: &Refusal, after: &str) {
    assert_ne!(refusal.code, Code::InvalidArgument, "{after} is refused: {refusal:?}");
}

impl Heard {
    fn note(&mut self, sent: Sent, clock: Clock) {
        let now = clock.now();
        if std::mem::take(&mut self.is_resumed) {
            self.watch.updates.push((now, Update::Resumed));
        }
        match sent {
            Sent::Heartbeat(heartbeat) => {
                if self.place.is_empty() {
                    self.watch.from = now;
                }
                self.place = heartbeat.id;
            }
            Sent::Event(event) => {
                self.watch.updates.push((now, Update::Event(parse(&event))));
                self.place = event.id;
            }
            Sent::Gap(_) => self.watch.updates.push((now, Update::Gap)),
        }
    }
}

/// An event by its `id`: that of the entry, in a cluster behind its partition.
fn parse(event: &MarkReadEvent) -> Event {
    let numbers: Vec<u64> =
        event.id.split('-').map(|number| number.parse().expect("an ID has numbers")).collect();
    let (partition, entry) = match numbers[..] {
        [ms, sequence] => (0, (ms, sequence)),
        [partition, ms, sequence] => (usize::try_from(partition).unwrap(), (ms, sequence)),
        _ => panic!("{} is not the ID of an event", event.id),
    };
    let conversation = Conversation { reader: event.sender_id, recipient: event.recipient_id };
    Event { partition, entry, conversation, message: event.last_read_event_id }
}
