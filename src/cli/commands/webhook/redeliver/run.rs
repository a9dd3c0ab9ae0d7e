//! One pass over the dead letters.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::stream::{StreamExt, iter};
use tokio::time::{Instant, sleep_until};

use super::filter::LetterFilter;
use super::letters::{Counts, Lane, delivery};
use crate::cli::commands::say;
use crate::cli::commands::webhook::check;
use crate::domain::EntryId;
use crate::relay::receiver::{Attempt, Delivery, Failure, FailureKind};
use crate::relay::webhook::Webhook;
use crate::store::now_ms;
use crate::store::redis::printable;
use crate::store::relay::{StoredLetter, WebhookAdmin};

/// Dead letters that are read at once.
const LETTERS_PER_READ: usize = 100;

/// Conversations whose letters are sent at the same time.
const LANES_AT_ONCE: usize = 16;

/// Failures in a row after which the receiver counts as down.
const FAILURES_MAX: u32 = 10;

/// Conversations that have failed, of which the later letters are held back.
const FAILED_CONVERSATIONS_MAX: usize = 10_000;

/// Letters that failed and are named.
const FAILURES_MAX_NAMED: u64 = 10;

/// Attempts at a letter while the receiver asks for less, or to wait.
const THROTTLED_ATTEMPTS: u32 = 5;

/// The least pause between them, and the longest that is waited for.
const THROTTLED_PAUSE: Duration = Duration::from_secs(1);
const THROTTLED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A pass, and what it has done so far.
pub(super) struct Run<'a> {
    store: &'a dyn WebhookAdmin,
    webhook: &'a Webhook,
    filter: &'a LetterFilter,
    now_ms: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    counts: Counts,
    failed: HashSet<Lane>,
    failures_in_a_row: u32,
    /// Nothing is sent before.
    wait_until: Option<Instant>,
    /// Why no more letters are sent.
    stop: Option<String>,
}

/// A letter to send, by its place in the stream.
type Letter = (EntryId, Delivery);

impl<'a> Run<'a> {
    pub(super) fn new(
        store: &'a dyn WebhookAdmin,
        webhook: &'a Webhook,
        filter: &'a LetterFilter,
    ) -> Self {
        Self { store, webhook, filter, now_ms: now_ms(), state: RefCell::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    pub(super) async fn run(&self) -> Result<(), String> {
        let (store, name) = (self.store, &self.webhook.name);
        // Those that a relay adds meanwhile are not sent: this ends.
        let mut left = store.count_dead_letters(name).await.map_err(|error| error.to_string())?;
        let (mut after, mut is_any) = (EntryId::ZERO, false);
        while left > 0 {
            let read = store.dead_letters(name, after, LETTERS_PER_READ).await;
            let mut letters = read.map_err(|error| error.to_string())?;
            let Some(last) = letters.last() else { break };
            after = last.at;
            letters.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left = left.saturating_sub(u64::try_from(letters.len()).unwrap_or(u64::MAX));
            let skipped = self.counts().skipped;
            let lanes = self.lanes(letters);
            is_any |= !lanes.is_empty() || self.counts().skipped > skipped;
            if !lanes.is_empty() {
                self.send_all(lanes).await?;
            }
        }
        match self.filter.id {
            Some(id) if !is_any => {
                let LetterFilter { since, user, .. } = self.filter;
                let others = since.is_some() || user.is_some();
                let others = if others { " and fits the other filters" } else { "" };
                Err(format!("no dead letter of {name} has the ID {id}{others}"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the letters to send, each conversation's in order.
    fn lanes(&self, letters: Vec<StoredLetter>) -> Vec<(Lane, Vec<Letter>)> {
        let mut lanes: Vec<(Lane, Vec<Letter>)> = Vec::new();
        let mut places = HashMap::new();
        let mut state = self.state.borrow_mut();
        for StoredLetter { at, letter } in letters {
            let Some(letter) = letter else {
                state.counts.skipped += u64::from(!self.filter.is_for_deliveries());
                continue;
            };
            if !self.filter.accepts(&letter.id, self.now_ms) {
                continue;
            }
            let Some((delivery, lane)) = delivery(letter) else {
                state.counts.skipped += 1;
                continue;
            };
            let place = *places.entry(lane).or_insert(lanes.len());
            match lanes.get_mut(place) {
                Some((_, letters)) => letters.push((at, delivery)),
                None => lanes.push((lane, vec![(at, delivery)])),
            }
        }
        lanes
    }

    /// Sends letters, those of several conversations at the same time. What is in flight when it has to stop
    /// is waited for.
    async fn send_all(&self, lanes: Vec<(Lane, Vec<Letter>)>) -> Result<(), String> {
        self.check_if_needed().await?;
        let sent = iter(lanes).map(|(lane, letters)| self.send_in_order(lane, letters));
        sent.buffer_unordered(LANES_AT_ONCE).collect::<()>().await;
        self.state.borrow_mut().stop.take().map_or(Ok(()), Err)
    }

    /// Nothing is sent to a receiver that is paused, or was never checked: it must pass a check first.
    async fn check_if_needed(&self) -> Result<(), String> {
        let name = &self.webhook.name;
        let state = self.store.state(name).await.map_err(|error| error.to_string())?;
        let settings = &self.webhook.settings;
        let is_verified = state.verified.is_some_and(|verified| verified.settings == *settings);
        let why = match state.paused.filter(|pause| pause.settings == *settings) {
            Some(pause) => format!("{name} is paused ({})", printable(&pause.reason)),
            None if is_verified => return Ok(()),
            None => format!("{name} was not checked with these settings"),
        };
        let checked = check::check(self.store, self.webhook).await;
        let checked = checked.map_err(|error| error.to_string())?;
        if let Some(problem) = checked.failure(self.webhook) {
            return Err(format!("{why}, and must pass a check first: it {problem}"));
        }
        say(&checked.passed(self.webhook));
        Ok(())
    }

    async fn send_in_order(&self, lane: Lane, letters: Vec<Letter>) {
        for (at, delivery) in letters {
            if self.state.borrow().failed.contains(&lane) {
                self.state.borrow_mut().counts.held_back += 1;
                continue;
            }
            let Some(attempt) = self.send(&delivery).await else { return };
            match attempt {
                Attempt::Delivered(_) => self.note_delivery(at, &delivery).await,
                Attempt::Gone => {
                    self.state.borrow_mut().counts.failed += 1;
                    self.stop("the receiver answered 410: it wants no more".to_owned());
                }
                Attempt::Failed(failure) => self.note_failure(&delivery, lane, &failure),
            }
        }
    }

    /// Attempts to deliver, several times while the receiver asks to wait. Returns nothing if nothing is sent
    /// any more.
    async fn send(&self, delivery: &Delivery) -> Option<Attempt> {
        let mut attempts = 1..THROTTLED_ATTEMPTS;
        loop {
            self.wait().await;
            if self.state.borrow().stop.is_some() {
                return None;
            }
            let attempt = self.webhook.receiver.deliver(delivery).await;
            let Attempt::Failed(Failure { kind, retry_after, .. }) = &attempt else {
                return Some(attempt);
            };
            if retry_after.is_none() && *kind != FailureKind::Throttled {
                return Some(attempt);
            }
            let pause = retry_after.unwrap_or_default().max(THROTTLED_PAUSE);
            if pause > THROTTLED_PAUSE_MAX {
                let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                let until = check::time(now_ms().saturating_add(ms));
                self.stop(format!("the receiver asks to wait until {until}"));
                return Some(attempt);
            }
            let until = Some(Instant::now() + pause);
            let mut state = self.state.borrow_mut();
            state.wait_until = state.wait_until.max(until);
            if attempts.next().is_none() {
                return Some(attempt);
            }
        }
    }

    /// Waits as long as the receiver has asked to, whichever letter it was.
    async fn wait(&self) {
        loop {
            let until = self.state.borrow().wait_until;
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    /// The first reason stays.
    fn stop(&self, problem: String) {
        self.state.borrow_mut().stop.get_or_insert(problem);
    }

    async fn note_delivery(&self, at: EntryId, delivery: &Delivery) {
        {
            let mut state = self.state.borrow_mut();
            state.counts.delivered += 1;
            state.failures_in_a_row = 0;
        }
        if let Err(error) = self.store.remove_dead_letters(&self.webhook.name, &[at]).await {
            self.stop(format!("{} is delivered, but could not be removed: {error}", delivery.id));
        }
    }

    fn note_failure(&self, delivery: &Delivery, lane: Lane, failure: &Failure) {
        let mut state = self.state.borrow_mut();
        state.counts.failed += 1;
        state.failures_in_a_row += 1;
        state.failed.insert(lane);
        if state.counts.failed <= FAILURES_MAX_NAMED {
            say(&format!("{} failed: {}", delivery.id, failure.detail));
        }
        let (failures, lanes) = (state.failures_in_a_row, state.failed.len());
        drop(state);
        if failures >= FAILURES_MAX {
            self.stop(format!(
                "{FAILURES_MAX} dead letters in a row failed, the last one with: {}",
                failure.detail
            ));
        } else if lanes >= FAILED_CONVERSATIONS_MAX {
            self.stop(format!("dead letters of {FAILED_CONVERSATIONS_MAX} conversations failed"));
        }
    }
}
