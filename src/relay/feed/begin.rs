//! Operations that a feed begins: renewals, reads, attempts, dead letters, notes and acknowledgements.

use std::sync::Arc;

use tokio::time::Instant;

use super::attempt::{AttemptParts, attempt};
use super::buffer::share;
use super::read::Read;
use super::{
    CALL_TIMEOUT, Feed, Letter, NOTE_INTERVAL, Outcome, READ_BYTES, READ_MAX_ENTRIES,
    UNACKNOWLEDGED_MAX, within,
};
use crate::domain::DeliveryId;
use crate::relay::dead_letters::{self, Reason};
use crate::relay::endpoint::RetryAt;
use crate::relay::lanes::{Item, LaneKey, Preference};
use crate::relay::lease::LEASE_TTL;
use crate::relay::retry::is_too_old;

impl Feed {
    /// Begins everything that may begin now. Returns when to look again.
    pub(super) fn begin(&mut self, now: Instant, stop_at: Option<Instant>) -> Instant {
        self.begin_renewal(now);
        self.begin_acknowledgement(now);
        self.begin_notes(now);
        // What is due already and did not begin waits for an event, not for a time.
        let mut wake_at = self.validity.until();
        let mut wake = |at: Option<Instant>| {
            wake_at = at.filter(|at| *at > now).map_or(wake_at, |at| at.min(wake_at));
        };
        wake(stop_at);
        wake((!self.is_renewing).then(|| self.validity.renew_at()));
        wake(self.acknowledging.begins_at());
        wake(self.noting.begins_at());
        if stop_at.is_some() {
            (self.place, self.place_wait) = (None, None);
            return wake_at;
        }
        wake(self.lanes.wake(now));
        wake(self.begin_attempts(now));
        self.begin_letter(now);
        wake(self.writing.begins_at());
        self.begin_read(now);
        wake(self.reading.begins_at());
        wake_at
    }

    fn begin_renewal(&mut self, now: Instant) {
        if self.is_renewing || now < self.validity.renew_at() {
            return;
        }
        self.is_renewing = true;
        let (context, lease) = (Arc::clone(&self.context), self.lease.clone());
        self.push(async move {
            let sent = Instant::now();
            let renewed = within(CALL_TIMEOUT, context.store.renew(&lease, LEASE_TTL)).await;
            Outcome::Renewed(sent, renewed)
        });
    }

    fn begin_acknowledgement(&mut self, now: Instant) {
        if !self.acknowledging.may_begin(now) {
            return;
        }
        let Some(entries) = self.buffer.begin_acknowledgement() else { return };
        self.acknowledging.is_running = true;
        let (context, lease) = (Arc::clone(&self.context), self.lease.clone());
        self.push(async move {
            let call = context.store.acknowledge(&lease, &entries);
            Outcome::Acknowledged(within(CALL_TIMEOUT, call).await)
        });
    }

    fn begin_notes(&mut self, now: Instant) {
        if !self.noting.may_begin(now) || !self.buffer.has_notes() {
            return;
        }
        if self.noting.not_before.is_none() {
            self.noting.not_before = Some(now + NOTE_INTERVAL);
            return;
        }
        self.noting.is_running = true;
        let notes = self.buffer.take_notes();
        let (context, lease) = (Arc::clone(&self.context), self.lease.clone());
        self.push(async move {
            let call = within(CALL_TIMEOUT, context.store.note_attempts(&lease, &notes)).await;
            Outcome::Noted(notes, call)
        });
    }

    fn begin_letter(&mut self, now: Instant) {
        if !self.writing.may_begin(now) {
            return;
        }
        let Some(letter) = self.letters.front() else { return };
        self.writing.is_running = true;
        let (context, letter) = (Arc::clone(&self.context), letter.content.clone());
        let webhook = self.endpoint.name.clone();
        self.push(async move {
            let maxlen = context.config.dead_letters_maxlen;
            let call = context.store.add_dead_letter(&webhook, &letter, maxlen);
            Outcome::LetterWritten(within(CALL_TIMEOUT, call).await)
        });
    }

    fn begin_read(&mut self, now: Instant) {
        if !self.reading.may_begin(now) || !self.endpoint.is_open() {
            return;
        }
        let feeds = self.context.owned();
        let (mut limit, mut bytes) = (READ_MAX_ENTRIES, READ_BYTES.min(share(feeds) / 2));
        if !self.buffer.has_room(limit, bytes, feeds) {
            return;
        }
        if !self.memory.try_set(self.buffer.bytes() + bytes) {
            // One that holds something looks again with its next renewal.
            if self.buffer.len() > 0 {
                return;
            }
            (limit, bytes) = (1, 1);
        }
        self.reading_bytes = bytes;
        self.reading.is_running = true;
        let read_from = self.read_from;
        let read = Read {
            context: Arc::clone(&self.context),
            endpoint: Arc::clone(&self.endpoint),
            doorbell: Arc::clone(&self.doorbell),
            lease: self.lease.clone(),
            from: read_from,
            position: self.position,
            limit,
            max_bytes: bytes,
            known: self.buffer.known(),
        };
        self.push(async move { Outcome::Read(read_from, read.run().await) });
    }

    /// Begins attempts while there are ready lanes and places. Returns when the circuit permits the next.
    fn begin_attempts(&mut self, now: Instant) -> Option<Instant> {
        let now_ms = (self.context.clock)();
        let is_open = self.endpoint.is_open() && self.buffer.unacknowledged() < UNACKNOWLEDGED_MAX;
        let preference =
            if self.endpoint.is_circuit_open() { Preference::Fresh } else { Preference::Turns };
        while let Some((_, item)) = self.lanes.next(preference) {
            let is_first = item.attempts == 0;
            if let Some(reason) = self.expiry(item, now_ms) {
                if let Some((key, _)) = self.lanes.begin(preference) {
                    self.give_up(key, reason);
                }
                continue;
            }
            if !is_open {
                break;
            }
            let place = self.take_place()?;
            match self.endpoint.begin(now, place, is_first) {
                Ok(permit) => {
                    let Some((key, item)) = self.lanes.begin(preference) else { break };
                    let (partition, entry) = (self.lease.feed.partition, item.entry);
                    let parts = AttemptParts {
                        key,
                        id: DeliveryId { partition, entry, for_user: key.for_user },
                        payload: item.payload.clone(),
                        traceparent: item.traceparent,
                        valid_until: self.validity.until(),
                    };
                    self.attempts += 1;
                    let endpoint = Arc::clone(&self.endpoint);
                    self.push(attempt(endpoint, permit, parts));
                }
                Err(RetryAt(until)) => return until,
            }
        }
        // A place that is not needed is another feed's.
        (self.place, self.place_wait) = (None, None);
        None
    }

    fn take_place(&mut self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        if let Some(place) = self.place.take() {
            return Some(place);
        }
        if self.place_wait.is_none() {
            let places = Arc::clone(&self.endpoint.places);
            match places.clone().try_acquire_owned() {
                Ok(place) => return Some(place),
                Err(_) => self.place_wait = Some(Box::pin(places.acquire_owned())),
            }
        }
        None
    }

    fn expiry(&self, item: &Item, now_ms: u64) -> Option<Reason> {
        let config = &self.context.config;
        if item.attempts >= config.max_attempts {
            Some(Reason::MaxAttempts)
        } else if is_too_old(item.entry.ms, now_ms, config.max_age) {
            Some(Reason::MaxAge)
        } else {
            None
        }
    }

    /// Makes a dead letter of the delivery of a lane that is under way.
    pub(super) fn give_up(&mut self, key: LaneKey, reason: Reason) {
        let partition = self.lease.feed.partition;
        let Some(item) = self.lanes.current(key) else { return };
        let content = dead_letters::of_delivery(partition, key, item, reason);
        let (entry, reason) = (item.entry, reason.word());
        self.letters.push_back(Letter { entry, lane: Some(key), content, reason });
    }

    fn push(&self, running: impl Future<Output = Outcome> + Send + 'static) {
        self.running.push(Box::pin(running));
    }
}
