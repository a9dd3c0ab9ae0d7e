//! Consequences of outcomes.

use std::time::Duration;

use tokio::time::Instant;

use super::read::{Batch, ReadFrom};
use super::{Feed, Letter, Lost, NOTE_INTERVAL, Outcome, READ_SPACING, RECHECK_SPACING};
use crate::chance::random;
use crate::domain::EntryId;
use crate::relay::dead_letters::{self, Reason};
use crate::relay::lanes::{Item, LaneKey};
use crate::relay::receiver::{Attempt, Failure, FailureKind};
use crate::relay::retry::{age_left, delay, jitter};
use crate::relay::routing::{Route, RoutedEntry, RoutedEvent};
use crate::store::StoreError;
use crate::store::relay::Leased;

/// Attempts by an earlier owner after which an entry waits first, and how long at most.
const ATTEMPTS_AT_ONCE: u32 = 3;
const TAKEOVER_DELAY_MAX: Duration = Duration::from_secs(60);

impl Feed {
    pub(super) fn handle(&mut self, outcome: Outcome) -> Result<(), Lost> {
        match outcome {
            Outcome::Attempted(key, attempt) => {
                self.attempts -= 1;
                self.attempted(key, attempt);
            }
            Outcome::NotAttempted(key) => {
                self.attempts -= 1;
                self.lanes.retry(key, Instant::now());
            }
            Outcome::Undeliverable(key) => {
                self.attempts -= 1;
                self.give_up(key, Reason::InvalidPayload);
            }
            Outcome::Read(read_from, read) => self.was_read(read_from, read)?,
            Outcome::Renewed(sent, renewed) => self.renewed(sent, renewed)?,
            Outcome::Acknowledged(acknowledged) => {
                self.buffer.end_acknowledgement(acknowledged.is_ok());
                match acknowledged {
                    Ok(Leased::Held(())) => self.acknowledging.succeed(),
                    Ok(Leased::Lost) => return Err(Lost),
                    Err(error) => {
                        self.endpoint.log_store_failure("cannot acknowledge entries", &error);
                        self.acknowledging.fail(Instant::now());
                    }
                }
            }
            Outcome::Noted(notes, result) => match result {
                Ok(Leased::Held(())) => self.noting.succeed(),
                Ok(Leased::Lost) => return Err(Lost),
                Err(error) => {
                    self.endpoint.log_store_failure("cannot note attempts", &error);
                    self.buffer.restore_notes(notes);
                    self.noting.fail(Instant::now());
                    self.noting.not_before = Some(Instant::now() + NOTE_INTERVAL);
                }
            },
            Outcome::LetterWritten(written) => self.letter_written(written),
        }
        Ok(())
    }

    fn renewed(
        &mut self,
        sent: Instant,
        renewed: Result<Leased<()>, StoreError>,
    ) -> Result<(), Lost> {
        self.is_renewing = false;
        match renewed {
            Ok(Leased::Held(())) => self.validity.renewed(sent),
            Ok(Leased::Lost) => return Err(Lost),
            Err(error) => {
                self.endpoint.log_store_failure("cannot renew a lease", &error);
                self.validity.not_renewed(Instant::now());
            }
        }
        Ok(())
    }

    fn attempted(&mut self, key: LaneKey, attempt: Attempt) {
        let failure = match attempt {
            Attempt::Delivered(_) => {
                if let Some(item) = self.lanes.finish(key) {
                    let ms = (self.context.clock)().saturating_sub(item.created_ms);
                    self.endpoint.metrics.count_delivered(Duration::from_millis(ms));
                    self.decide(item.entry);
                }
                return;
            }
            Attempt::Gone => Failure {
                kind: FailureKind::Status,
                status: Some(410),
                detail: "410 Gone".to_owned(),
                retry_after: None,
            },
            Attempt::Failed(failure) => failure,
        };
        self.status.note_failure(&failure.detail);
        if let Some(suppressed) = self.endpoint.lines.attempts.permit() {
            let (webhook, cause) = (self.endpoint.name.as_str(), failure.detail.as_str());
            tracing::warn!(webhook, cause, suppressed, "an attempt to deliver failed");
        }
        let Some(item) = self.lanes.current(key) else { return };
        item.attempts = item.attempts.saturating_add(1);
        let asked = failure.retry_after.unwrap_or_default();
        item.failure = Some(Box::new(failure));
        let (entry, attempts) = (item.entry, item.attempts);
        self.buffer.note_attempts(entry, attempts);
        if attempts >= self.context.config.max_attempts {
            self.give_up(key, Reason::MaxAttempts);
        } else {
            let pause = delay(attempts, self.endpoint.is_flaky(attempts));
            let pause = jitter(pause, random()).max(asked);
            let age_left = age_left(entry.ms, (self.context.clock)(), self.context.config.max_age);
            self.lanes.retry(key, Instant::now() + pause.min(age_left));
        }
    }

    /// Notes that one delivery of an entry arrived or became a dead letter.
    fn decide(&mut self, entry: EntryId) {
        self.buffer.decide(entry);
        self.status.note_progress();
    }

    fn letter_written(&mut self, written: Result<(), StoreError>) {
        if let Err(error) = written {
            self.endpoint.log_store_failure("cannot write a dead letter", &error);
            self.writing.fail(Instant::now());
            return;
        }
        self.writing.succeed();
        let Some(Letter { entry, lane, reason, .. }) = self.letters.pop_front() else { return };
        self.endpoint.metrics.count_dead_letter(reason);
        if let Some(suppressed) = self.endpoint.lines.letters.permit() {
            let webhook = self.endpoint.name.as_str();
            tracing::warn!(webhook, reason, suppressed, "an event became a dead letter");
        }
        if let Some(key) = lane {
            self.lanes.finish(key);
        }
        self.decide(entry);
    }

    fn was_read(
        &mut self,
        read_from: ReadFrom,
        read: Result<Leased<Batch>, StoreError>,
    ) -> Result<(), Lost> {
        let now = Instant::now();
        self.reading_bytes = 0;
        match read {
            Ok(Leased::Lost) => return Err(Lost),
            Err(error) => {
                self.endpoint.log_store_failure("cannot read entries", &error);
                self.reading.fail(now);
                // The answer may have been lost: then its entries are pending. If the store runs it later
                // than the next read, they are unknown at the one after that.
                if !matches!(read_from, ReadFrom::Pending(_)) {
                    self.read_from = ReadFrom::Pending(self.position);
                }
            }
            Ok(Leased::Held(batch)) => {
                self.reading.succeed();
                self.take_batch(read_from, batch, now);
            }
        }
        Ok(())
    }

    fn take_batch(&mut self, read_from: ReadFrom, batch: Batch, now: Instant) {
        let Batch { entries, count, is_full, unknown, last, missed, read_to } = batch;
        self.count_missed(missed);
        if unknown > 0 && self.recheck_at <= now {
            // A failover took acknowledgements back, or the store ran a read whose answer was lost. These
            // entries are pending too now: they are read again, after older ones.
            self.recheck_at = now + RECHECK_SPACING;
            self.read_from = ReadFrom::Pending(EntryId::ZERO);
            return;
        }
        let is_pending = matches!(read_from, ReadFrom::Pending(_));
        let read_to = read_to.filter(|_| count == 0);
        self.position = self.position.max(last.or(read_to).unwrap_or_default());
        self.read_from = match (read_from, last) {
            (ReadFrom::Pending(_), Some(last)) => ReadFrom::Pending(last),
            (ReadFrom::Pending(_), None) => ReadFrom::New,
            // Under load the next ones are there already.
            (_, Some(_)) if is_full || count > 1 => ReadFrom::New,
            _ => ReadFrom::NewAfter(self.position),
        };
        if !is_pending && count > 0 && !is_full {
            self.reading.not_before = Some(now + READ_SPACING);
        }
        for entry in entries {
            // Pending ones may be here already, and new ones too: after a failover that took a read back.
            if self.buffer.is_new(entry.id) {
                self.add(entry);
            }
        }
    }

    fn add(&mut self, entry: RoutedEntry) {
        let RoutedEntry { id, attempts, route } = entry;
        match route {
            Route::Removed => {
                self.count_missed(1);
                self.buffer.hold(id, 0, 0, 0);
            }
            Route::Deleted => self.buffer.hold(id, 0, 0, 0),
            Route::Letter(reason, payload) => {
                self.buffer.hold(id, 1, payload.as_ref().map_or(0, bytes::Bytes::len), attempts);
                let partition = self.lease.feed.partition;
                let content = dead_letters::of_entry(partition, id, payload, reason);
                let reason = reason.word();
                self.letters.push_back(Letter { entry: id, lane: None, content, reason });
            }
            Route::Deliver(event) => self.add_event(id, attempts, &event),
        }
    }

    fn add_event(&mut self, id: EntryId, attempts: u32, event: &RoutedEvent) {
        let RoutedEvent { event, payload, traceparent, for_users } = event;
        let users = for_users.iter().flatten();
        self.buffer.hold(id, users.clone().count(), payload.len(), attempts);
        if users.clone().next().is_none() {
            self.endpoint.metrics.count_not_subscribed();
            self.status.note_progress();
        }
        let (reader, recipient) = (event.mark.reader, event.mark.recipient);
        for for_user in users {
            let key = LaneKey { reader, recipient, for_user: *for_user };
            let item = Item {
                entry: id,
                created_ms: event.created_ms,
                payload: payload.clone(),
                traceparent: *traceparent,
                attempts,
                failure: None,
            };
            // The earlier owner waited too.
            let has_failed = attempts > ATTEMPTS_AT_ONCE;
            let begin_at = has_failed.then(|| {
                let pause = delay(attempts, false).min(TAKEOVER_DELAY_MAX);
                Instant::now() + jitter(pause, random())
            });
            self.lanes.add(key, item, begin_at);
        }
    }

    fn count_missed(&self, entries: u64) {
        if entries == 0 {
            return;
        }
        self.endpoint.metrics.count_missed(entries);
        if let Some(suppressed) = self.endpoint.lines.missed.permit() {
            let (webhook, partition) = (self.endpoint.name.as_str(), self.lease.feed.partition);
            tracing::warn!(
                webhook,
                partition,
                entries,
                suppressed,
                "entries were trimmed before they were delivered"
            );
        }
    }
}
