//! Random histories that are right: a store that works is simulated, with clients, losses, watchers and a receiver.
//! They must be accepted; with one thing planted that is wrong, they must not be.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::Code;

use crate::history::{
    Conversation, Deliveries, Event, History, Injected, Loss, Moment, Operation, Outcome, Request,
    Update, Watch,
};

use super::Promise;
use crate::world::{Durability, Mode};

mod planted;
mod valid;

/// How long a simulated run lasts, in ms.
const RUN: u64 = 2_000;

/// What faults of a run may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Losses {
    /// Lose nothing.
    None,
    /// Erase everything.
    Total,
    /// Set back to a recent state.
    Partial,
    /// Set back to a recent state that has all of which a mark was acknowledged.
    Unacknowledged,
}

impl Losses {
    fn promise(self) -> Promise {
        match self {
            Self::None | Self::Total => Promise::new(Mode::Standalone, Durability::Always, 1),
            Self::Partial => Promise::new(Mode::Standalone, Durability::Snapshots, 1),
            Self::Unacknowledged => Promise::new(Mode::Sentinel, Durability::AlwaysReplica, 1),
        }
    }
}

const fn at(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

fn conversations() -> Vec<Conversation> {
    [(1, 2), (2, 1), (1, 3)].map(|(reader, recipient)| Conversation { reader, recipient }).to_vec()
}

/// What Redis has.
#[derive(Clone, Default)]
struct State {
    cursors: BTreeMap<Conversation, u64>,
    events: Vec<Event>,
}

/// What happens at a moment.
enum Step {
    /// An operation takes effect.
    Effect(usize),
    /// A fault takes something.
    Setback,
}

/// A run under way.
struct Simulation {
    random: StdRng,
    losses: Losses,
    history: History,
    state: State,
    /// Earlier states, and how many operations were acknowledged by them.
    states: Vec<State>,
    /// The first state that has all of which a mark is acknowledged.
    acknowledged: usize,
}

/// Returns the history of a seed.
fn simulate(seed: u64, losses: Losses) -> History {
    let mut simulation = Simulation {
        random: StdRng::seed_from_u64(seed),
        losses,
        history: History::default(),
        state: State::default(),
        states: vec![State::default()],
        acknowledged: 0,
    };
    let mut steps = simulation.clients();
    steps.extend(simulation.faults());
    steps.sort_by_key(|(at, _)| *at);
    simulation.listen();
    for (at, step) in steps {
        match step {
            Step::Effect(index) => simulation.effect(index, at),
            Step::Setback => simulation.set_back(at),
        }
    }
    simulation.end()
}

impl Simulation {
    /// Puts the operations of three clients into the history, and returns when they take effect.
    fn clients(&mut self) -> Vec<(u64, Step)> {
        let mut steps = Vec::new();
        for client in 0..3 {
            let mut now = self.random.random_range(0..20);
            let mut message = 1;
            while now < RUN {
                let (wait, rest) =
                    (self.random.random_range(0..30), self.random.random_range(0..30));
                let conversations = conversations();
                let conversation = conversations[self.random.random_range(0..3)];
                message += self.random.random_range(0..3);
                let back = self.random.random_range(0..4.min(message));
                let is_read = self.random.random_ratio(1, 4);
                let request = if is_read { Request::Read } else { Request::Mark(message - back) };
                let index = self.history.operations.len();
                let outcome = match self.random.random_range(0..10) {
                    0 => Outcome::Unknown(Code::Unavailable),
                    1 => Outcome::Refused(Code::ResourceExhausted),
                    _ => Outcome::Read(None),
                };
                let late = matches!(outcome, Outcome::Unknown(_)) && self.random.random();
                let late = if late { self.random.random_range(0..500) } else { 0 };
                steps.push((now + wait + late, Step::Effect(index)));
                let (began, ended) = (at(now), at(now + wait + rest));
                let operation = Operation { client, conversation, request, began, ended, outcome };
                self.history.operations.push(operation);
                now += wait + rest + self.random.random_range(1..40);
            }
        }
        steps
    }

    /// Puts faults into the history, and returns when they take something.
    fn faults(&mut self) -> Vec<(u64, Step)> {
        let mut steps = Vec::new();
        let mut now = 0;
        for _ in 0..self.random.random_range(0..4) {
            now += self.random.random_range(100..600);
            let (wait, rest) = (self.random.random_range(0..40), self.random.random_range(0..40));
            let (from, to) = (at(now), at(now + wait + rest));
            let loss = match self.losses {
                Losses::None | Losses::Unacknowledged => None,
                Losses::Total => Some(true),
                Losses::Partial => Some(false),
            };
            let loss = loss.map(|is_total| Loss { from, to, partitions: None, is_total });
            let losses = loss.into_iter().collect();
            self.history.faults.push(Injected { kind: "fault".to_owned(), from, to, losses });
            steps.push((now + wait, Step::Setback));
            now += wait + rest;
        }
        steps
    }

    /// A watcher from some time on, and a receiver.
    fn listen(&mut self) {
        let from = at(self.random.random_range(0..RUN / 2));
        self.history.watches.push(Watch { user: 2, from, updates: Vec::new() });
        let webhook = "all".to_owned();
        self.history.deliveries.push(Deliveries { webhook, ..Deliveries::default() });
    }

    fn effect(&mut self, index: usize, now: u64) {
        let (conversation, request, outcome) = {
            let operation = &self.history.operations[index];
            (operation.conversation, operation.request, operation.outcome.clone())
        };
        let is_unknown = matches!(outcome, Outcome::Unknown(_));
        if matches!(outcome, Outcome::Refused(_)) || (is_unknown && self.random.random()) {
            return;
        }
        let before = self.state.cursors.get(&conversation).copied();
        let answer = match request {
            Request::Read => Outcome::Read(before),
            Request::Mark(message) if before.is_none_or(|before| before < message) => {
                self.advance(conversation, message, now);
                Outcome::Marked { cursor: message, advanced: true }
            }
            Request::Mark(message) => {
                Outcome::Marked { cursor: before.unwrap_or(message), advanced: false }
            }
        };
        if !is_unknown {
            self.history.operations[index].outcome = answer;
            if request != Request::Read {
                self.acknowledged = self.states.len() - 1;
            }
        }
    }

    fn advance(&mut self, conversation: Conversation, message: u64, now: u64) {
        let sequence = u64::try_from(self.state.events.len()).unwrap();
        let event = Event { partition: 0, entry: (now, sequence), conversation, message };
        self.state.cursors.insert(conversation, message);
        self.state.events.push(event.clone());
        self.states.push(self.state.clone());
        self.hear(&event, now);
        let deliveries = &mut self.history.deliveries[0];
        deliveries.accepted.push((at(now + 1), conversation.recipient, event));
    }

    fn hear(&mut self, event: &Event, now: u64) {
        let watch = &mut self.history.watches[0];
        let Conversation { reader, recipient } = event.conversation;
        if at(now) >= watch.from && (reader == watch.user || recipient == watch.user) {
            watch.updates.push((at(now + 1), Update::Event(event.clone())));
        }
    }

    fn set_back(&mut self, now: u64) {
        let last = self.states.len() - 1;
        let state = match self.losses {
            Losses::None => return,
            Losses::Total => State::default(),
            Losses::Partial => {
                let recent = self.random.random_range(last.saturating_sub(5)..=last);
                self.states[recent].clone()
            }
            Losses::Unacknowledged => {
                let recent = self.random.random_range(self.acknowledged..=last);
                self.states[recent].clone()
            }
        };
        self.state = state;
        // What comes back later can only be what is left now.
        self.states = vec![self.state.clone()];
        self.acknowledged = 0;
        if at(now) >= self.history.watches[0].from {
            self.history.watches[0].updates.push((at(now), Update::Gap));
            // It hears all that is left, but what was before it began.
            let from = self.history.watches[0].from;
            let left = self.state.events.clone();
            for event in left.iter().filter(|event| at(event.entry.0) >= from) {
                self.hear(event, now);
            }
        }
    }

    fn end(mut self) -> History {
        self.history.cursors = self.state.cursors.into_iter().collect();
        self.history.events = self.state.events;
        self.history
    }
}
