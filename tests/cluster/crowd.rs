//! A crowd of readers, each of whom marks a few messages and tries again what was refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use markread_harness::Server;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::cluster::partition_of;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

use crate::accounts::Accounts;
use crate::{PARTITIONS, reader};

/// The first message that is marked.
const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// Whom readers read: each has two conversations.
const RECIPIENTS: [u64; 2] = [3_805_104_374, 3_805_104_375];

/// Callers at once, each with its share of the readers.
const TASKS: u64 = 64;

/// The least time between two marks of a task, so that the load lasts as long as what it is tried with.
const PACE: Duration = Duration::from_millis(40);

/// A crowd that is not done by then never will be.
const LIMIT: Duration = Duration::from_secs(240);

/// A crowd that marks.
pub(crate) struct Crowd {
    tasks: JoinSet<Vec<Call>>,
    marked: Arc<AtomicUsize>,
}

/// A call that was answered.
struct Call {
    reader: u64,
    recipient: u64,
    message: u64,
    began: Instant,
    ended: Instant,
    /// Whether it advanced, or the status that it was refused with.
    answer: Result<bool, (Code, String)>,
}

/// All calls of a crowd.
pub(crate) struct Calls(Vec<Call>);

/// What became of acknowledged marks.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Conversations whose cursor is at the last acknowledged message.
    pub(crate) kept: usize,
    /// Conversations whose cursor is behind it.
    pub(crate) lost: usize,
}

impl Crowd {
    /// Starts so many readers, each of whom marks so many messages.
    pub(crate) fn on(server: &Server, readers: u64, marks: u64) -> Self {
        let mut tasks = JoinSet::new();
        let marked = Arc::<AtomicUsize>::default();
        let began = Instant::now();
        for task in 0..TASKS.min(readers) {
            let channel = server.channel();
            let own = (task..readers).step_by(usize::try_from(TASKS).unwrap()).map(reader);
            let callers: Vec<_> = own
                .map(|reader| (reader, Caller::new(channel.clone(), Credentials::token_of(reader))))
                .collect();
            let marked = Arc::clone(&marked);
            tasks.spawn(async move { run(callers, marks, began, &marked).await });
        }
        Self { tasks, marked }
    }

    /// How many marks were acknowledged so far.
    pub(crate) fn marked(&self) -> usize {
        self.marked.load(Ordering::Relaxed)
    }

    /// Waits until so many marks are acknowledged.
    pub(crate) async fn wait_for(&self, marks: usize) {
        markread_harness::eventually("marks go on", LIMIT, async || {
            (self.marked() >= marks).then_some(())
        })
        .await;
    }

    /// Waits until each reader's marks are acknowledged.
    pub(crate) async fn done(self) -> Calls {
        Calls(self.tasks.join_all().await.into_iter().flatten().collect())
    }
}

/// Marks in turn for each reader. What was refused is tried again in the reader's next turn.
async fn run(
    mut callers: Vec<(u64, Caller)>,
    marks: u64,
    began: Instant,
    marked: &AtomicUsize,
) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut done: HashMap<u64, u64> = HashMap::new();
    while !callers.is_empty() {
        assert!(began.elapsed() < LIMIT, "{} readers are not done", callers.len());
        for (reader, caller) in &callers {
            let count = done.entry(*reader).or_default();
            let call = mark(caller, *reader, *count).await;
            if call.answer.is_ok() {
                *count += 1;
                marked.fetch_add(1, Ordering::Relaxed);
            }
            let pause = PACE.saturating_sub(call.ended - call.began);
            calls.push(call);
            sleep(pause).await;
        }
        callers.retain(|(reader, _)| done[reader] < marks);
    }
    calls
}

async fn mark(caller: &Caller, reader: u64, count: u64) -> Call {
    let recipient = RECIPIENTS[usize::from(count % 2 == 1)];
    let message = MESSAGE + count;
    let began = Instant::now();
    let answer = caller.mark(recipient, message).await;
    let answer = answer.map_err(|refusal| (refusal.code, refusal.reason)).map(|answer| {
        assert_eq!(answer.cursor.last_read_event_id, message, "a cursor is where it was marked");
        answer.advanced
    });
    Call { reader, recipient, message, began, ended: Instant::now(), answer }
}

impl Calls {
    /// How many marks were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.0.iter().filter(|call| call.answer.is_ok()).count()
    }

    /// How many calls were refused, in the partitions that are chosen. Each refusal must be one that a
    /// retry is safe after.
    pub(crate) fn refused(&self, of: impl Fn(usize) -> bool) -> usize {
        let refused = self.0.iter().filter_map(|call| Some((call, call.answer.as_ref().err()?)));
        let refused = refused.inspect(|(_, (code, reason))| {
            assert_eq!((*code, reason.as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
        });
        refused.filter(|(call, _)| of(partition_of(call.reader, PARTITIONS))).count()
    }

    /// The longest call in the partitions that are chosen.
    pub(crate) fn longest(&self, of: impl Fn(usize) -> bool) -> Duration {
        let chosen = self.0.iter().filter(|call| of(partition_of(call.reader, PARTITIONS)));
        chosen.map(|call| call.ended - call.began).max().unwrap_or_default()
    }

    /// How long after an instant each partition that is chosen had acknowledged a mark that began later:
    /// the longest of them.
    pub(crate) fn served_again(&self, after: Instant, of: impl Fn(usize) -> bool) -> Duration {
        let mut first: HashMap<usize, Instant> = HashMap::new();
        for call in self.0.iter().filter(|call| call.answer.is_ok() && call.ended > after) {
            let ended = first.entry(partition_of(call.reader, PARTITIONS)).or_insert(call.ended);
            *ended = call.ended.min(*ended);
        }
        let chosen = (0..usize::from(PARTITIONS)).filter(|&partition| of(partition));
        let late = chosen.map(|partition| {
            *first.get(&partition).unwrap_or_else(|| panic!("{partition} is not served again"))
        });
        late.max().map_or(Duration::ZERO, |last| last - after)
    }

    /// Compares acknowledged marks with the cursors, in the partitions that are chosen.
    pub(crate) fn kept(&self, accounts: &Accounts, of: impl Fn(usize) -> bool) -> Kept {
        let mut greatest: HashMap<(u64, u64), u64> = HashMap::new();
        for call in self.0.iter().filter(|call| call.answer.is_ok()) {
            let message = greatest.entry((call.reader, call.recipient)).or_default();
            *message = call.message.max(*message);
        }
        let mut kept = Kept::default();
        for ((reader, recipient), message) in greatest {
            if of(partition_of(reader, PARTITIONS)) {
                match accounts.cursors.get(&(reader, recipient)) {
                    Some(&cursor) if cursor >= message => kept.kept += 1,
                    _ => kept.lost += 1,
                }
            }
        }
        kept
    }

    /// How many events the acknowledged marks in the partitions that are chosen must have: one for each,
    /// since every mark is of a later message than those before.
    pub(crate) fn events(&self, of: impl Fn(usize) -> bool) -> usize {
        let acknowledged = self.0.iter().filter(|call| call.answer.is_ok());
        acknowledged.filter(|call| of(partition_of(call.reader, PARTITIONS))).count()
    }
}

mod tests {
    use std::time::{Duration, Instant};

    use super::{Call, Calls};
    use crate::accounts::Accounts;

    #[test]
    fn a_lost_mark_is_counted() {
        let began = Instant::now();
        let call = |message, answer| {
            let ended = began + Duration::from_secs(1);
            Call { reader: 1, recipient: 2, message, began, ended, answer }
        };
        let refused = Err((tonic::Code::Unavailable, "STORE_UNAVAILABLE".to_owned()));
        let calls = Calls(vec![call(5, Ok(true)), call(6, refused)]);
        for (cursor, lost) in [(5, 0), (6, 0), (4, 1)] {
            let accounts = Accounts { cursors: [((1, 2), cursor)].into(), events: Vec::new() };
            assert_eq!(calls.kept(&accounts, |_| true).lost, lost, "a cursor at {cursor}");
        }
        assert_eq!((calls.acknowledged(), calls.refused(|_| true)), (1, 1));
    }
}
