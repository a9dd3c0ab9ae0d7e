//! From an entry to its deliveries.

use bytes::Bytes;

use super::dead_letters::Reason;
use super::webhook::{Audience, Webhook};
use crate::domain::{EntryId, Event, UserId};
use crate::store::StoreError;
use crate::store::relay::{EntryContent, FeedEntry, RelayStore};
use crate::telemetry::Traceparent;

/// An entry, and what is to be done with it.
#[derive(Debug)]
pub(super) struct RoutedEntry {
    pub(super) id: EntryId,
    /// Attempts of an earlier owner.
    pub(super) attempts: u32,
    pub(super) route: Route,
}

/// Consequence of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It is delivered for these users; nobody is subscribed if there are none.
    Deliver(Box<RoutedEvent>),
    /// It cannot be delivered to anyone.
    Letter(Reason, Option<Bytes>),
    /// It was removed from the stream.
    Removed,
    /// It was deleted, so that nobody gets it.
    Deleted,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct RoutedEvent {
    pub(super) event: Event,
    pub(super) payload: Bytes,
    pub(super) traceparent: Option<Traceparent>,
    pub(super) for_users: [Option<UserId>; 2],
}

/// Parses entries, each for everyone whom it may be for.
pub(super) fn parse_all(entries: Vec<FeedEntry>, webhook: &Webhook) -> Vec<RoutedEntry> {
    entries.into_iter().map(|entry| parse(entry, webhook.echo)).collect()
}

/// Leaves the users that are subscribed, with one look-up for all entries.
pub(super) async fn keep_subscribed(
    store: &dyn RelayStore,
    webhook: &Webhook,
    entries: &mut [RoutedEntry],
) -> Result<(), StoreError> {
    if webhook.audience == Audience::All {
        return Ok(());
    }
    let for_users = |entry: &RoutedEntry| match &entry.route {
        Route::Deliver(event) => event.for_users,
        _ => [None, None],
    };
    let mut users: Vec<_> = entries.iter().flat_map(for_users).flatten().collect();
    users.sort_unstable();
    users.dedup();
    if users.is_empty() {
        return Ok(());
    }
    let subscribed = store.are_subscribed(&webhook.name, &users).await?;
    let is_subscribed = |user: &UserId| {
        let index = users.binary_search(user).ok();
        index.and_then(|index| subscribed.get(index)).copied().unwrap_or_default()
    };
    for entry in entries {
        if let Route::Deliver(event) = &mut entry.route {
            event.for_users = event.for_users.map(|user| user.filter(is_subscribed));
        }
    }
    Ok(())
}

/// Parses an entry: it may be for its recipient, and with `echo` for its reader.
fn parse(entry: FeedEntry, echo: bool) -> RoutedEntry {
    let FeedEntry { id, attempts, content } = entry;
    let route = match content {
        EntryContent::Removed => Route::Removed,
        EntryContent::Deleted => Route::Deleted,
        EntryContent::TooLarge(_) => Route::Letter(Reason::TooLarge, None),
        EntryContent::Stored { payload: None, .. } => Route::Letter(Reason::NoPayload, None),
        EntryContent::Stored { payload: Some(payload), traceparent } => {
            match parse_event(id, &payload) {
                Err(reason) => Route::Letter(reason, Some(payload)),
                Ok(event) => {
                    let (reader, recipient) = (event.mark.reader, event.mark.recipient);
                    let own = (echo && reader != recipient).then_some(reader);
                    let traceparent = traceparent.and_then(|text| Traceparent::parse(&text));
                    let for_users = [Some(recipient), own];
                    Route::Deliver(Box::new(RoutedEvent { event, payload, traceparent, for_users }))
                }
            }
        }
    };
    RoutedEntry { id, attempts, route }
}

fn parse_event(id: EntryId, payload: &[u8]) -> Result<Event, Reason> {
    let text = std::str::from_utf8(payload).map_err(|_| Reason::NotUtf8)?;
    Event::parse(id.into(), text)
        .filter(|_| text.trim_ascii_start().starts_with('{'))
        .ok_or(Reason::InvalidPayload)
}
