//! `markread webhook redeliver`: sends dead letters again.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use tokio::time::sleep;

use super::check;
use super::{counted, now_ms, say};
use crate::cli::commands::interrupt::Interrupt;
use crate::domain::{DeliveryId, EntryId, Event, Mark, Position, UserId};
use crate::relay::delivery_body;
use crate::relay::receiver::{Attempt, Delivery, Failure, FailureKind};
use crate::relay::webhook::Webhook;
use crate::store::redis::{AdminError, printable};
use crate::store::relay::{DeadLetter, LetterId, StoredLetter, WebhookAdmin};

/// Dead letters that are read at once.
const LETTERS_PER_READ: usize = 100;

/// Failures in a row after which the receiver counts as down.
const FAILURES_MAX: u32 = 10;

/// Conversations that have failed, of which the later letters are held back.
const FAILED_CONVERSATIONS_MAX: usize = 10_000;

/// Letters that failed and are named.
const FAILURES_MAX_NAMED: u64 = 10;

/// Attempts at a letter while the receiver asks for less.
const THROTTLED_ATTEMPTS: u32 = 5;

/// Pause between them, if the receiver names none, and the longest.
const THROTTLED_PAUSE: Duration = Duration::from_secs(1);
const THROTTLED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The letters that are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct LetterFilter {
    /// The greatest age of their event.
    pub since: Option<Duration>,
    /// The user that they are for.
    pub user: Option<UserId>,
    /// The only one.
    pub id: Option<DeliveryId>,
}

impl LetterFilter {
    /// Returns whether it excludes letters of which it is not known whom they are for.
    fn is_for_deliveries(&self) -> bool {
        self.user.is_some() || self.id.is_some()
    }

    fn accepts(&self, id: &LetterId, now_ms: u64) -> bool {
        let entry = match id {
            LetterId::Delivery(id) => {
                if self.user.is_some_and(|user| user != id.for_user)
                    || self.id.is_some_and(|wanted| wanted != *id)
                {
                    return false;
                }
                id.entry
            }
            LetterId::Entry(..) if self.is_for_deliveries() => return false,
            LetterId::Entry(_, entry) => *entry,
        };
        self.since.is_none_or(|age| {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            entry.ms >= now_ms.saturating_sub(age_ms)
        })
    }
}

/// A conversation as one of its users gets it: its letters are sent in order.
type Lane = (UserId, UserId, UserId);

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    delivered: u64,
    failed: u64,
    /// Letters behind one of their conversation that failed.
    held_back: u64,
    /// Letters without an event.
    skipped: u64,
}

impl Counts {
    fn describe(self) -> String {
        let Self { delivered, failed, held_back, skipped } = self;
        let mut text = format!("{} delivered", counted(delivered, "dead letter"));
        let others = [
            (failed, "failed"),
            (held_back, "not sent, behind one of their conversation that failed"),
            (skipped, "without an event skipped"),
        ];
        for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {number} {what}");
        }
        text
    }
}

/// Sends the letters, removes those that arrive, and returns what was done.
pub(super) async fn run(
    store: &dyn WebhookAdmin,
    webhook: &Webhook,
    filter: &LetterFilter,
) -> Result<String, AdminError> {
    let mut interrupt = Interrupt::new()?;
    let mut run = Run::new(store, webhook, filter);
    let done = tokio::select! {
        biased;
        () = interrupt.wait() => Err("interrupted".to_owned()),
        done = run.run() => done,
    };
    let counts = run.counts;
    match done {
        Err(problem) => Err(AdminError::Failed(format!("{problem}: {}", counts.describe()))),
        Ok(()) if counts.failed > 0 => Err(AdminError::Failed(counts.describe())),
        Ok(()) => Ok(counts.describe()),
    }
}

struct Run<'a> {
    store: &'a dyn WebhookAdmin,
    webhook: &'a Webhook,
    filter: &'a LetterFilter,
    now_ms: u64,
    counts: Counts,
    failed: HashSet<Lane>,
    failures_in_a_row: u32,
}

impl<'a> Run<'a> {
    fn new(store: &'a dyn WebhookAdmin, webhook: &'a Webhook, filter: &'a LetterFilter) -> Self {
        let (counts, failed) = Default::default();
        Self { store, webhook, filter, now_ms: now_ms(), counts, failed, failures_in_a_row: 0 }
    }

    async fn run(&mut self) -> Result<(), String> {
        self.check_if_needed().await?;
        let (store, name) = (self.store, &self.webhook.name);
        // Those that a relay adds meanwhile are not sent: this ends.
        let mut left = store.count_dead_letters(name).await.map_err(|error| error.to_string())?;
        let mut after = EntryId::ZERO;
        while left > 0 {
            let read = store.dead_letters(name, after, LETTERS_PER_READ).await;
            let letters = read.map_err(|error| error.to_string())?;
            let Some(last) = letters.last() else { return Ok(()) };
            after = last.at;
            for letter in letters.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                left -= 1;
                self.take(letter).await?;
            }
        }
        Ok(())
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

    async fn take(&mut self, StoredLetter { at, letter }: StoredLetter) -> Result<(), String> {
        let Some(letter) = letter else {
            self.counts.skipped += u64::from(!self.filter.is_for_deliveries());
            return Ok(());
        };
        if !self.filter.accepts(&letter.id, self.now_ms) {
            return Ok(());
        }
        let Some((delivery, lane)) = delivery(letter) else {
            self.counts.skipped += 1;
            return Ok(());
        };
        if self.failed.contains(&lane) {
            self.counts.held_back += 1;
            return Ok(());
        }
        match self.send(&delivery).await {
            Attempt::Delivered(_) => {
                self.counts.delivered += 1;
                self.failures_in_a_row = 0;
                let removed = self.store.remove_dead_letters(&self.webhook.name, &[at]).await;
                removed.map_err(|error| {
                    format!("{} is delivered, but could not be removed: {error}", delivery.id)
                })
            }
            Attempt::Gone => {
                self.counts.failed += 1;
                Err("the receiver answered 410: it wants no more".to_owned())
            }
            Attempt::Failed(failure) => self.note_failure(&delivery, lane, &failure),
        }
    }

    /// Attempts to deliver, several times while the receiver asks for less.
    async fn send(&self, delivery: &Delivery) -> Attempt {
        let mut attempts = 1..THROTTLED_ATTEMPTS;
        loop {
            let attempt = self.webhook.receiver.deliver(delivery).await;
            let Attempt::Failed(Failure { kind: FailureKind::Throttled, retry_after, .. }) =
                &attempt
            else {
                return attempt;
            };
            if attempts.next().is_none() {
                return attempt;
            }
            sleep(retry_after.unwrap_or(THROTTLED_PAUSE).min(THROTTLED_PAUSE_MAX)).await;
        }
    }

    fn note_failure(
        &mut self,
        delivery: &Delivery,
        lane: Lane,
        failure: &Failure,
    ) -> Result<(), String> {
        self.counts.failed += 1;
        self.failures_in_a_row += 1;
        self.failed.insert(lane);
        if self.counts.failed <= FAILURES_MAX_NAMED {
            say(&format!("{} failed: {}", delivery.id, failure.detail));
        }
        if self.failures_in_a_row >= FAILURES_MAX {
            return Err(format!(
                "{FAILURES_MAX} dead letters in a row failed, the last one with: {}",
                failure.detail
            ));
        }
        if self.failed.len() >= FAILED_CONVERSATIONS_MAX {
            return Err(format!("dead letters of {FAILED_CONVERSATIONS_MAX} conversations failed"));
        }
        Ok(())
    }
}

/// Returns what is sent, the same as at first; `None` if the letter has no event.
fn delivery(letter: DeadLetter) -> Option<(Delivery, Lane)> {
    let LetterId::Delivery(id) = letter.id else { return None };
    let payload = letter.payload?;
    let text = std::str::from_utf8(&payload).ok()?;
    let Mark { reader, recipient, .. } = Event::parse(Position::from(id.entry), text)?.mark;
    let body = delivery_body(&payload, id.for_user)?;
    Some((Delivery { id, body }, (reader, recipient, id.for_user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    fn letter(entry: &str, for_user: u64) -> DeliveryId {
        DeliveryId { partition: 0, entry: entry.parse().unwrap(), for_user: user(for_user) }
    }

    #[test]
    fn a_filter_accepts_what_fits_all_of_it() {
        let id = letter("5000-1", 7);
        let (delivery, entry) = (LetterId::Delivery(id), LetterId::Entry(0, id.entry));
        let since = |ms| Some(Duration::from_millis(ms));
        let none = LetterFilter::default();
        let table = [
            (none, true, true),
            (LetterFilter { since: since(1000), ..none }, true, true),
            (LetterFilter { since: since(999), ..none }, false, false),
            (LetterFilter { since: Some(Duration::MAX), ..none }, true, true),
            (LetterFilter { user: Some(user(7)), ..none }, true, false),
            (LetterFilter { user: Some(user(8)), ..none }, false, false),
            (LetterFilter { id: Some(id), ..none }, true, false),
            (LetterFilter { id: Some(letter("5000-2", 7)), ..none }, false, false),
            (LetterFilter { id: Some(letter("5000-1", 8)), ..none }, false, false),
            (LetterFilter { id: Some(id), user: Some(user(8)), ..none }, false, false),
            (LetterFilter { id: Some(id), since: since(999), ..none }, false, false),
        ];
        for (filter, of_delivery, of_entry) in table {
            assert_eq!(filter.accepts(&delivery, 6000), of_delivery, "{filter:?}");
            assert_eq!(filter.accepts(&entry, 6000), of_entry, "{filter:?}");
        }
    }

    #[test]
    fn a_letter_is_sent_as_it_was_at_first() {
        let payload = r#"{"direct_message_mark_read_events":[{"created_timestamp":"5","sender_id":"8","last_read_event_id":"9","target":{"recipient_id":"7"}}],"users":{}}"#;
        let id = letter("5-0", 7);
        let stored = |id, payload: Option<&str>| DeadLetter {
            id,
            payload: payload.map(|payload| payload.to_owned().into()),
            reason: "max_attempts".to_owned(),
            attempts: 20,
            last_status: Some(500),
            last_error: None,
        };
        let (sent, lane) = delivery(stored(LetterId::Delivery(id), Some(payload))).unwrap();
        assert_eq!(sent.body, payload.replacen('{', r#"{"for_user_id":"7","#, 1));
        assert_eq!((sent.id, lane), (id, (user(8), user(7), user(7))));
        for letter in [
            stored(LetterId::Entry(0, id.entry), Some(payload)),
            stored(LetterId::Delivery(id), None),
            stored(LetterId::Delivery(id), Some("{}")),
        ] {
            assert!(delivery(letter.clone()).is_none(), "{letter:?}");
        }
    }

    #[test]
    fn counts_name_only_what_there_was() {
        let counts = Counts { delivered: 1, ..Counts::default() };
        assert_eq!(counts.describe(), "1 dead letter delivered");
        let counts = Counts { delivered: 0, failed: 2, held_back: 3, skipped: 4 };
        assert_eq!(
            counts.describe(),
            "0 dead letters delivered, 2 failed, 3 not sent, behind one of their conversation that \
             failed, 4 without an event skipped"
        );
    }
}
