//! The users of a run, their conversations, and which messages there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use markread_harness::caller::Credentials;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::history::Conversation;
use crate::world::{FIRST_USER, World};

/// Readers with conversations of all kinds.
const READERS: u64 = 24;

/// The first of them have as many conversations as make buckets (64 fit into one hash) and split them.
const BUSY_READERS: u64 = 3;
const BUSY_CONVERSATIONS: u64 = 150;
const CONVERSATIONS: u64 = 30;

/// Readers whose quota has so many marks left at the begin.
const LIMITED_READERS: u64 = 2;
const LIMITED_CONVERSATIONS: u64 = 10;
const LEFT_OF_QUOTA: u64 = 60;

/// Conversations in which everyone marks at once: reader and recipient, from the first user. One is a user's
/// with itself.
const HOT: [(u64, u64); 5] = [(0, 1), (1, 0), (2, 5), (4, 4), (5, 40)];

/// The share of calls that go to a hot conversation.
const HOT_SHARE: f64 = 0.35;

/// Users whose events are watched. The last but one gets read receipts only.
const WATCHED: [u64; 8] = [0, 1, 2, 4, 5, 10, 29, 23];

/// The IDs that conversations begin at: small ones, whose number of digits grows, ones that no double tells
/// apart, and ones as in Twitter's example.
const FIRST_MESSAGES: [u64; 6] =
    [1, 95, 9_990, 9_007_199_254_740_980, 999_999_999_999_999_950, 8_754_578_330_382_663_700];

/// Users and conversations, shared by their clones.
#[derive(Clone)]
pub(super) struct Population(Arc<Shared>);

struct Shared {
    hot: Vec<Dialogue>,
    cold: Vec<Dialogue>,
    credentials: HashMap<u64, Credentials>,
}

/// A conversation and its newest message.
pub(super) struct Dialogue {
    pub(super) conversation: Conversation,
    first: u64,
    newest: AtomicU64,
}

impl Dialogue {
    fn new(reader: u64, recipient: u64, random: &mut StdRng) -> Self {
        let conversation =
            Conversation { reader: FIRST_USER + reader, recipient: FIRST_USER + recipient };
        let first = *FIRST_MESSAGES.choose(random).expect("there are some");
        Self { conversation, first, newest: AtomicU64::new(first) }
    }

    /// The ID of a message that nobody has had before.
    fn next(&self, random: &mut StdRng) -> u64 {
        let step = random.random_range(1..=3);
        self.newest.fetch_add(step, Ordering::Relaxed) + step
    }

    /// A message: a new one, the newest one again, or one of those before it.
    pub(super) fn message(&self, random: &mut StdRng) -> u64 {
        let newest = self.newest.load(Ordering::Relaxed);
        match random.random_range(0..10) {
            0..4 => self.next(random),
            4..7 => newest,
            _ => newest.saturating_sub(random.random_range(1..=20)).max(self.first),
        }
    }
}

impl Population {
    /// The population of a seed.
    pub(super) fn new(random: &mut StdRng) -> Self {
        let hot: Vec<_> = HOT
            .iter()
            .map(|&(reader, recipient)| Dialogue::new(reader, recipient, random))
            .collect();
        let mut cold = Vec::new();
        let limited = 1000..1000 + LIMITED_READERS;
        for reader in (0..READERS).chain(limited.clone()) {
            let count = match reader {
                0..BUSY_READERS => BUSY_CONVERSATIONS,
                BUSY_READERS..READERS => CONVERSATIONS,
                _ => LIMITED_CONVERSATIONS,
            };
            let recipients = (0..count).filter(|recipient| !HOT.contains(&(reader, *recipient)));
            cold.extend(recipients.map(|recipient| Dialogue::new(reader, recipient, random)));
        }
        let users = (0..READERS).chain(limited).chain(WATCHED);
        let credentials = users.map(|user| FIRST_USER + user);
        let credentials = credentials.map(|user| (user, Credentials::token_of(user))).collect();
        Self(Arc::new(Shared { hot, cold, credentials }))
    }

    /// Lets the quotas of some readers end soon.
    pub(super) async fn limit_quotas(&self, world: &World) {
        for reader in 0..LIMITED_READERS {
            world.leave_of_quota(FIRST_USER + 1000 + reader, LEFT_OF_QUOTA).await;
        }
    }

    /// The users that are watched.
    pub(super) fn watched() -> [u64; 8] {
        WATCHED.map(|user| FIRST_USER + user)
    }

    /// How a user authenticates.
    pub(super) fn credentials(&self, user: u64) -> Credentials {
        self.0.credentials[&user].clone()
    }

    /// Any conversation.
    pub(super) fn any(&self, random: &mut StdRng) -> &Dialogue {
        let all = if random.random_bool(HOT_SHARE) { &self.0.hot } else { &self.0.cold };
        all.choose(random).expect("there are some")
    }

    /// Some conversations of one reader, which may be the same ones.
    pub(super) fn several(&self, random: &mut StdRng) -> Vec<&Dialogue> {
        let first = self.any(random);
        let reader = first.conversation.reader;
        let all: Vec<_> = self.of(reader).collect();
        let more = random.random_range(1..8);
        let mut several = vec![first];
        several.extend((0..more).map(|_| *all.choose(random).expect("it has the first one")));
        several
    }

    /// All conversations of a reader.
    pub(super) fn of(&self, reader: u64) -> impl Iterator<Item = &Dialogue> {
        let all = self.0.hot.iter().chain(&self.0.cold);
        all.filter(move |dialogue| dialogue.conversation.reader == reader)
    }
}
