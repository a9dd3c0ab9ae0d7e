//! The end of a run: what is still on its way arrives, and everything is read.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Load;
use crate::history::{Conversation, Deliveries, Event, History, Update};
use crate::world::{World, webhooks};

/// What is not heard or delivered after this time is missing. A delivery that failed eight times waits for 72 s.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Longer than a call can be under way in a server.
const LAST_CALLS: Duration = Duration::from_millis(2500);

/// Ends the load of a world that is whole, and returns what happened, but for the faults.
pub async fn settle(world: &World, mut load: Load) -> History {
    let operations = load.end_calls().await;
    sleep(LAST_CALLS).await;
    let events = world.events().await;
    let began = Instant::now();
    while began.elapsed() < SETTLE_LIMIT
        && !(are_heard(&load, &events) && are_delivered(world, &events).await)
    {
        sleep(POLL_INTERVAL).await;
    }
    let mut deliveries = Vec::new();
    for (index, webhook) in webhooks().into_iter().enumerate() {
        deliveries.push(Deliveries {
            webhook: webhook.name.to_owned(),
            users: webhook.users,
            echo: webhook.echo,
            accepted: accepted(world, index),
            dead: world.dead_letters(webhook.name).await,
            missed: world.missed(webhook.name).await,
        });
    }
    History {
        operations,
        cursors: world.cursors().await,
        events: world.events().await,
        watches: load.watches(),
        deliveries,
        faults: Vec::new(),
    }
}

/// Whether each watcher has heard the last event of each partition that concerns its user.
fn are_heard(load: &Load, events: &[Event]) -> bool {
    load.watches().iter().all(|watch| {
        let of_user = |event: &&Event| {
            [event.conversation.reader, event.conversation.recipient].contains(&watch.user)
        };
        let last: HashMap<_, _> =
            events.iter().filter(of_user).map(|event| (event.partition, event)).collect();
        let heard: HashSet<_> = watch
            .updates
            .iter()
            .filter_map(|(_, update)| match update {
                Update::Event(event) => Some(event),
                _ => None,
            })
            .collect();
        last.values().all(|event| heard.contains(event))
    })
}

/// Whether each event has reached each receiver, or is a dead letter, for each user that it is owed to.
async fn are_delivered(world: &World, events: &[Event]) -> bool {
    for (index, webhook) in webhooks().into_iter().enumerate() {
        let accepted = world.receivers[index].accepted_ids();
        let dead: HashSet<_> = world.dead_letters(webhook.name).await.into_iter().collect();
        let is_done = |event: &Event| {
            let Event { partition, entry: (ms, sequence), conversation, .. } = event;
            let has = |user| accepted.contains(&format!("{partition}-{ms}-{sequence}-{user}"));
            let has_all =
                has(conversation.recipient) && (!webhook.echo || has(conversation.reader));
            has_all || dead.contains(event)
        };
        if !events.iter().all(is_done) {
            return false;
        }
    }
    true
}

/// What a receiver has accepted, in order of arrival.
fn accepted(world: &World, index: usize) -> Vec<(Duration, u64, Event)> {
    let arrivals = world.receivers[index].accepted().into_iter();
    let events = arrivals.map(|arrival| {
        let conversation =
            Conversation { reader: arrival.lane.reader, recipient: arrival.lane.recipient };
        let event = Event {
            partition: arrival.partition,
            entry: arrival.entry,
            conversation,
            message: arrival.message,
        };
        (arrival.at.duration_since(world.began), arrival.lane.for_user, event)
    });
    events.collect()
}
