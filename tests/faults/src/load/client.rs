//! A client: calls one after the other, each recorded.

use std::collections::HashSet;
use std::future::Future;
use std::time::{Duration, Instant};

use markread::proto::batch_mark_read_result::Result as ItemResult;
use markread::proto::{BatchMarkReadResult, ReadState};
use markread_harness::caller::{Caller, Refusal};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::outcome::{of_failure, of_refusal};
use super::{Clock, Connection, Population};
use crate::history::{Conversation, Moment, Operation, Outcome, Request};

/// After this time a client gives a call up: longer than `--call-timeout`, so that a server that runs has
/// answered.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// The pause between two calls, and after a failure.
const PAUSE_MS: std::ops::Range<u64> = 5..55;
const PAUSE_AFTER_FAILURE_MS: std::ops::Range<u64> = 20..150;

/// Cursors of a page.
const PAGE_SIZE: i32 = 60;

/// One client.
pub(super) struct Client {
    number: usize,
    connection: Connection,
    clock: Clock,
    population: Population,
    operations: Vec<Operation>,
}

/// When a call began and ended.
type Times = (Moment, Moment);

impl Client {
    pub(super) fn new(
        number: usize,
        connection: Connection,
        began: Instant,
        population: Population,
    ) -> Self {
        Self { number, connection, clock: Clock(began), population, operations: Vec::new() }
    }

    /// Calls until it is over.
    pub(super) async fn run(mut self, over: watch::Receiver<bool>) -> Vec<Operation> {
        while !*over.borrow() {
            let is_answered = match self.connection.random.random_range(0..100) {
                0..52 => self.mark().await,
                52..60 => self.mark_batch().await,
                60..85 => self.read().await,
                85..96 => self.read_batch().await,
                _ => self.list().await,
            };
            let pause_ms = if is_answered {
                PAUSE_MS
            } else {
                self.connection.move_on();
                PAUSE_AFTER_FAILURE_MS
            };
            let pause_ms = self.connection.random.random_range(pause_ms);
            sleep(Duration::from_millis(pause_ms)).await;
        }
        self.operations
    }

    fn caller(&self, reader: u64) -> Caller {
        Caller::new(self.connection.channel(), self.population.credentials(reader))
    }

    /// The answer to a call within the limit, or the outcome of one without an answer, and its times.
    async fn timed<T>(
        &self,
        call: impl Future<Output = Result<T, Refusal>>,
    ) -> (Result<T, Outcome>, Times) {
        let began = self.clock.now();
        let answer = match timeout(CALL_LIMIT, call).await {
            Ok(answer) => answer.map_err(|refusal| of_refusal(&refusal)),
            Err(_) => Err(Outcome::Unknown(Code::DeadlineExceeded)),
        };
        (answer, (began, self.clock.now()))
    }

    fn record(
        &mut self,
        conversation: Conversation,
        request: Request,
        outcome: Outcome,
        (began, ended): Times,
    ) {
        let client = self.number;
        self.operations.push(Operation { client, conversation, request, began, ended, outcome });
    }

    async fn mark(&mut self) -> bool {
        let (conversation, message) = {
            let random = &mut self.connection.random;
            let dialogue = self.population.any(random);
            (dialogue.conversation, dialogue.message(random))
        };
        let caller = self.caller(conversation.reader);
        let (answer, times) = self.timed(caller.mark(conversation.recipient, message)).await;
        let outcome = answer.map(|answer| Outcome::Marked {
            cursor: answer.cursor.last_read_event_id,
            advanced: answer.advanced,
        });
        let is_answered = is_answered(&outcome);
        self.record(conversation, Request::Mark(message), outcome.unwrap_or_else(|it| it), times);
        is_answered
    }

    async fn mark_batch(&mut self) -> bool {
        let marks: Vec<_> = {
            let random = &mut self.connection.random;
            let several = self.population.several(random);
            let mark = |dialogue: &super::population::Dialogue| {
                (dialogue.conversation, dialogue.message(random))
            };
            several.into_iter().map(mark).collect()
        };
        let caller = self.caller(marks[0].0.reader);
        let items: Vec<_> = marks.iter().map(|(of, message)| (of.recipient, *message)).collect();
        let (answer, times) = self.timed(caller.mark_batch(&items)).await;
        let is_answered = is_answered(&answer);
        let results = answer.map(|answer| answer.into_inner().results);
        if let Ok(results) = &results {
            assert_eq!(results.len(), marks.len(), "each item has a result");
        }
        for (index, (conversation, message)) in marks.into_iter().enumerate() {
            let outcome = match &results {
                Ok(results) => of_item(&results[index]),
                Err(outcome) => outcome.clone(),
            };
            self.record(conversation, Request::Mark(message), outcome, times);
        }
        is_answered
    }

    async fn read(&mut self) -> bool {
        let of = self.population.any(&mut self.connection.random).conversation;
        let caller = self.caller(of.reader);
        let (answer, times) = self.timed(caller.state(of.recipient)).await;
        let state = answer.map(|answer| answer.into_inner().state.expect("an answer has a state"));
        self.record_states(of.reader, &[of.recipient], &state.map(|state| vec![state]), times)
    }

    async fn read_batch(&mut self) -> bool {
        let (reader, recipients) = {
            let several = self.population.several(&mut self.connection.random);
            let recipients = several.iter().map(|dialogue| dialogue.conversation.recipient);
            (several[0].conversation.reader, recipients.collect::<Vec<_>>())
        };
        let caller = self.caller(reader);
        let (answer, times) = self.timed(caller.states(&recipients)).await;
        let states = answer.map(|answer| answer.into_inner().states);
        self.record_states(reader, &recipients, &states, times)
    }

    /// Records both cursors of each state: how far the caller has read, and how far the other user has.
    fn record_states(
        &mut self,
        reader: u64,
        recipients: &[u64],
        states: &Result<Vec<ReadState>, Outcome>,
        times: Times,
    ) -> bool {
        let is_answered = is_answered(states);
        for (index, &recipient) in recipients.iter().enumerate() {
            let [mine, theirs] = match states {
                Ok(states) => {
                    let state = &states[index];
                    [&state.mine, &state.theirs].map(|cursor| {
                        Outcome::Read(cursor.as_ref().map(|cursor| cursor.last_read_event_id))
                    })
                }
                Err(outcome) => [(); 2].map(|()| outcome.clone()),
            };
            self.record(Conversation { reader, recipient }, Request::Read, mine, times);
            let other = Conversation { reader: recipient, recipient: reader };
            self.record(other, Request::Read, theirs, times);
        }
        is_answered
    }

    /// Lists all cursors of a reader. Those that exist throughout are on exactly one page, so the others were
    /// absent at some moment.
    async fn list(&mut self) -> bool {
        let reader = self.population.any(&mut self.connection.random).conversation.reader;
        let caller = self.caller(reader);
        let began = self.clock.now();
        let (mut token, mut listed) = (String::new(), HashSet::new());
        loop {
            let (answer, times) = self.timed(caller.page(PAGE_SIZE, &token)).await;
            let Ok(page) = answer else { return is_answered(&answer) };
            let page = page.into_inner();
            for cursor in page.cursors {
                let conversation = Conversation { reader, recipient: cursor.recipient_id };
                let outcome = Outcome::Read(Some(cursor.last_read_event_id));
                self.record(conversation, Request::Read, outcome, times);
                listed.insert(conversation);
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let all: Vec<_> =
            self.population.of(reader).map(|dialogue| dialogue.conversation).collect();
        let times = (began, self.clock.now());
        for conversation in all.into_iter().filter(|of| !listed.contains(of)) {
            self.record(conversation, Request::Read, Outcome::Read(None), times);
        }
        true
    }
}

/// Whether a server that works has answered.
fn is_answered<T>(answer: &Result<T, Outcome>) -> bool {
    !matches!(answer, Err(Outcome::Unknown(_)))
}

fn of_item(item: &BatchMarkReadResult) -> Outcome {
    match item.result.as_ref().expect("an item has a result") {
        ItemResult::Response(response) => Outcome::Marked {
            cursor: response.cursor.as_ref().expect("a mark has a cursor").last_read_event_id,
            advanced: response.advanced,
        },
        ItemResult::Error(error) => of_failure(Code::from_i32(error.code), &error.reason),
    }
}
