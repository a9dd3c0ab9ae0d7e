//! Marks against a simulated Redis, on a paused clock.

mod simulation;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::domain::{Mark, Quota, UserId, UserObject};
use crate::store::StoreErrorKind::{Corrupt, Unavailable};
use crate::store::redis::connection::Connections;
use crate::store::redis::connection::fake::{self, Command, FakeRedis, RATE_LIMIT, Resp};
use crate::store::redis::marks::acks::UNANSWERED_MAX;
use crate::store::redis::settings::Ack;

/// Group commit, connected to a simulated Redis.
struct Setup {
    redis: FakeRedis,
    parts: NodeParts,
    group_commit: Arc<GroupCommit>,
    calls: mpsc::UnboundedReceiver<ScriptCall>,
}

/// A script call that has arrived and is not answered yet.
struct ScriptCall {
    command: Command,
    answer: oneshot::Sender<Option<Resp>>,
}

impl Setup {
    async fn new() -> Self {
        Self::with_ack(None, Resp::nil()).await
    }

    /// `acknowledged` is the answer to WAIT.
    async fn with_ack(ack: Option<Ack>, acknowledged: Resp) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let redis = FakeRedis::new(move |command| {
            if command.name() == "WAIT" {
                return fake::now(acknowledged.clone());
            }
            let (answer, reply) = fake::later();
            let call = ScriptCall { command: command.clone(), answer };
            // A test that has ended receives no more.
            let _ = sender.send(call);
            reply
        });
        let parts = fake::parts_of(1, ack);
        redis.connect_calls(&parts).await;
        let script = MarkReadScript::new(Arc::clone(&parts.shared.stream_limit), RATE_LIMIT, false);
        let group_commit = Arc::new(GroupCommit::new(parts.clone(), Arc::new(script)));
        Self { redis, parts, group_commit, calls }
    }

    /// Starts a mark of a reader, without user objects.
    fn mark(&self, reader: u64) -> JoinHandle<MarkResult> {
        self.mark_with(reader, Users::default())
    }

    fn mark_with(&self, reader: u64, users: Users) -> JoinHandle<MarkResult> {
        let group_commit = Arc::clone(&self.group_commit);
        tokio::spawn(async move { group_commit.mark(mark_of(reader), users).await })
    }

    /// Starts a list of one mark, which takes no slot.
    fn list(&self, reader: u64) -> JoinHandle<Result<Vec<MarkResult>, StoreError>> {
        let group_commit = Arc::clone(&self.group_commit);
        tokio::spawn(async move {
            group_commit.run_script(Way::Plain, &[mark_of(reader)], &Users::default()).await
        })
    }

    /// Takes all slots with marks of readers 1 to 3, and returns their marks and calls.
    async fn take_slots(&mut self) -> ([JoinHandle<MarkResult>; 3], [ScriptCall; 3]) {
        let marks = [1, 2, 3].map(|reader| self.mark(reader));
        let calls = [self.next().await, self.next().await, self.next().await];
        assert_eq!(calls.each_ref().map(ScriptCall::readers), [[1], [2], [3]]);
        (marks, calls)
    }

    async fn next(&mut self) -> ScriptCall {
        let next = timeout(Duration::from_secs(1), self.calls.recv()).await;
        next.expect("a script call arrives").unwrap()
    }

    async fn assert_no_call(&mut self) {
        settle().await;
        let next = self.calls.try_recv();
        assert!(next.is_err(), "{:?}", next.map(|call| call.readers()));
    }
}

impl ScriptCall {
    fn readers(&self) -> Vec<u64> {
        let quotas = self.command.words.iter();
        let readers = quotas.filter_map(|word| word.strip_prefix("markread:quota:"));
        readers.map(|reader| reader.parse().unwrap()).collect()
    }

    /// Answers that all marks advanced. A reader has used as many calls as its ID.
    fn succeed(self) {
        let marks = self.readers().into_iter();
        let results = marks.flat_map(|reader| [Resp::integer(reader), Resp::integer(60_000)]);
        let reply = Resp::array([Resp::integer(1_000)].into_iter().chain(results));
        self.answer(reply);
    }

    /// Answers that all marks advanced, except those of these readers, which are rare.
    fn leave(self, rare: &[u64]) {
        let marks = self.readers().into_iter();
        let results = marks.flat_map(|reader| {
            let is_rare = rare.contains(&reader);
            let values = if is_rare { [0, 0] } else { [reader, 60_000] };
            values.map(Resp::integer)
        });
        self.answer(Resp::array([Resp::text("1000")].into_iter().chain(results)));
    }

    /// The digest of the script.
    fn script(&self) -> &str {
        &self.command.words[1]
    }

    /// Answers that the only mark is over quota for a minute.
    fn deny(self) {
        let (reset, left) = (Resp::integer(61_000), Resp::integer(60_000));
        self.answer(Resp::array([Resp::integer(1_000), Resp::text("over_quota"), reset, left]));
    }

    fn fail(self, error: &str) {
        self.answer(Resp::error(error));
    }

    fn answer(self, reply: Resp) {
        self.send(Some(reply));
    }

    fn close_connection(self) {
        self.send(None);
    }

    fn send(self, reply: Option<Resp>) {
        self.answer.send(reply).expect("the connection is open");
    }
}

fn mark_of(reader: u64) -> TracedMark {
    let last_read_event_id = 9.try_into().unwrap();
    let mark = Mark { reader: user(reader), recipient: user(1_000), last_read_event_id };
    TracedMark { mark, traceparent: None }
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

/// Lets everything run that can.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

async fn result_of<T>(call: JoinHandle<T>) -> T {
    timeout(Duration::from_secs(1), call).await.expect("the call ends").unwrap()
}

/// Asserts that a mark got the result of its own reader.
async fn assert_advanced(mark: JoinHandle<MarkResult>, reader: u64) {
    let outcome = result_of(mark).await.unwrap();
    assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
    assert_eq!(outcome.quota(), RATE_LIMIT.quota(reader, 60_000));
}

async fn assert_unavailable(mark: JoinHandle<MarkResult>) {
    assert_eq!(result_of(mark).await.unwrap_err().kind, Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_lone_mark_is_sent_at_once() {
    let mut setup = Setup::new().await;
    let began = Instant::now();
    let mark = setup.mark(1);
    let call = setup.next().await;
    assert_eq!((call.readers(), began.elapsed()), (vec![1], Duration::ZERO));
    call.succeed();
    assert_advanced(mark, 1).await;
}

#[tokio::test(start_paused = true)]
async fn marks_that_wait_for_a_slot_leave_together_in_order() {
    let mut setup = Setup::new().await;
    let (_, [first, ..]) = setup.take_slots().await;
    let _waiting = [7, 4, 6, 5].map(|reader| setup.mark(reader));
    setup.assert_no_call().await;
    first.succeed();
    let group = setup.next().await;
    assert_eq!(group.readers(), [7, 4, 6, 5]);
    setup.assert_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn each_mark_of_a_group_gets_its_own_result() {
    let mut setup = Setup::new().await;
    let (marks, calls) = setup.take_slots().await;
    let waiting = [7, 4, 6, 5].map(|reader| (setup.mark(reader), reader));
    settle().await;
    for call in calls {
        call.succeed();
    }
    setup.next().await.succeed();
    for (mark, reader) in marks.into_iter().zip(1..).chain(waiting) {
        assert_advanced(mark, reader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_has_at_most_64_marks() {
    let mut setup = Setup::new().await;
    let (_, [first, second, _]) = setup.take_slots().await;
    let _waiting: Vec<_> = (4..=70).map(|reader| setup.mark(reader)).collect();
    settle().await;
    first.succeed();
    let group = setup.next().await;
    assert_eq!(group.readers(), (4..=67).collect::<Vec<_>>());
    setup.assert_no_call().await;
    second.succeed();
    assert_eq!(setup.next().await.readers(), [68, 69, 70]);
}

#[tokio::test(start_paused = true)]
async fn a_group_stops_growing_past_1_mib_of_user_objects() {
    const OBJECT_BYTES: usize = 64 * 1024;
    let object = format!("{{{}}}", " ".repeat(OBJECT_BYTES - 2));
    let object = UserObject::parse(object.as_bytes(), OBJECT_BYTES).unwrap();
    let mut setup = Setup::new().await;
    let (_, [first, second, _]) = setup.take_slots().await;
    let _waiting: Vec<_> = (4..=23)
        .map(|reader| {
            setup.mark_with(reader, Users::within_bounds([(user(reader), object.clone())]))
        })
        .collect();
    settle().await;
    first.succeed();
    let group = setup.next().await;
    assert_eq!(group.readers(), (4..=19).collect::<Vec<_>>());
    setup.assert_no_call().await;
    second.succeed();
    assert_eq!(setup.next().await.readers(), [20, 21, 22, 23]);
}

#[tokio::test(start_paused = true)]
async fn a_mark_whose_caller_gave_up_is_never_sent() {
    let mut setup = Setup::new().await;
    let (_, [first, second, third]) = setup.take_slots().await;
    let [gone, _waiting, also_gone] = [4, 5, 6].map(|reader| setup.mark(reader));
    settle().await;
    gone.abort();
    also_gone.abort();
    settle().await;
    first.succeed();
    let group = setup.next().await;
    assert_eq!(group.readers(), [5]);

    // A slot for which only such marks wait is free.
    let last = setup.mark(7);
    settle().await;
    last.abort();
    settle().await;
    second.succeed();
    third.succeed();
    setup.assert_no_call().await;
    let _next = setup.mark(8);
    assert_eq!(setup.next().await.readers(), [8]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_redis_holds_a_slot_only_while_a_caller_waits() {
    let mut setup = Setup::new().await;
    let ([lone, ..], _) = setup.take_slots().await;
    let [first, second] = [4, 5].map(|reader| setup.mark(reader));
    setup.assert_no_call().await;
    lone.abort();
    let group = setup.next().await;
    assert_eq!(group.readers(), [4, 5]);

    let _next = setup.mark(6);
    first.abort();
    setup.assert_no_call().await;
    second.abort();
    assert_eq!(setup.next().await.readers(), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_fails_its_group_and_frees_the_slot() {
    let mut setup = Setup::new().await;
    let (_, [first, second, third]) = setup.take_slots().await;
    let waiting = [4, 5].map(|reader| setup.mark(reader));
    settle().await;
    for call in [first, second, third] {
        call.succeed();
    }
    let group = setup.next().await;
    assert_eq!(group.readers(), [4, 5]);
    group.fail("OOM command not allowed");
    for mark in waiting {
        assert_unavailable(mark).await;
    }
    let (_, [lone, ..]) = setup.take_slots().await;
    let _next = setup.mark(6);
    setup.assert_no_call().await;
    lone.fail("OOM command not allowed");
    assert_eq!(setup.next().await.readers(), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_script_is_sent_again_once_with_its_source() {
    const LOST: &str = "NOSCRIPT No matching script.";
    let mut setup = Setup::new().await;
    let mark = setup.mark(1);
    let by_digest = setup.next().await;
    let sent = by_digest.command.words.clone();
    assert_eq!((sent[0].as_str(), sent[1].len()), ("EVALSHA", 40));
    by_digest.fail(LOST);
    let by_source = setup.next().await;
    let sent_again = &by_source.command.words;
    assert_eq!((sent_again[0].as_str(), &sent_again[2..]), ("EVAL", &sent[2..]));
    assert!(sent_again[1].contains("redis.call"), "{}", sent_again[1]);
    by_source.succeed();
    assert_advanced(mark, 1).await;

    let mark = setup.mark(1);
    setup.next().await.fail(LOST);
    setup.next().await.fail(LOST);
    assert_eq!(result_of(mark).await.unwrap_err().kind, Corrupt);
    setup.assert_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_otherwise_is_not_sent_again() {
    let mut setup = Setup::new().await;
    for error in ["BUSY a script runs", "LOADING the dataset", "TRYAGAIN", "ERR unknown"] {
        let mark = setup.mark(1);
        setup.next().await.fail(error);
        assert!(result_of(mark).await.is_err());
        setup.assert_no_call().await;
    }

    let mark = setup.mark(1);
    let call = setup.next().await;
    // Another connection is ready when this one breaks.
    setup.redis.connect_calls(&setup.parts).await;
    call.close_connection();
    assert_unavailable(mark).await;
    setup.assert_no_call().await;
    let mark = setup.mark(2);
    setup.next().await.succeed();
    assert_advanced(mark, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_rare_mark_is_sent_to_the_other_script() {
    let mut setup = Setup::new().await;
    let mark = setup.mark(1);
    let single = setup.next().await;
    let script = single.script().to_owned();
    single.leave(&[1]);
    let full = setup.next().await;
    assert_eq!(full.readers(), [1]);
    assert_ne!(full.script(), script);
    full.succeed();
    assert_advanced(mark, 1).await;
    setup.assert_no_call().await;
}

/// A group whose user objects are sent again for its rare marks alone.
#[tokio::test(start_paused = true)]
async fn the_rare_marks_of_a_group_leave_together_with_their_users() {
    let object = |name: &str| {
        let object = UserObject::parse(format!("{{\"a\":\"{name}\"}}").as_bytes(), 100);
        object.unwrap()
    };
    let mut setup = Setup::new().await;
    let (_, calls) = setup.take_slots().await;
    let waiting = [7, 4, 6, 5].map(|reader| {
        let users = Users::within_bounds([(user(reader), object(&format!("of {reader}")))]);
        (setup.mark_with(reader, users), reader)
    });
    settle().await;
    calls.into_iter().for_each(ScriptCall::succeed);
    setup.next().await.leave(&[4, 5]);
    let full = setup.next().await;
    assert_eq!(full.readers(), [4, 5]);
    let sent = |name: &str| full.command.words.iter().any(|word| word.contains(name));
    assert!(sent("of 4") && sent("of 5"), "{:?}", full.command.words);
    assert!(!sent("of 6") && !sent("of 7"), "{:?}", full.command.words);
    let [seven, four, six, five] = waiting.map(|(mark, _)| mark);
    // The others are answered while these are under way.
    assert_advanced(seven, 7).await;
    assert_advanced(six, 6).await;
    full.succeed();
    assert_advanced(four, 4).await;
    assert_advanced(five, 5).await;
    setup.assert_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn rare_marks_that_fail_fail_alone() {
    let mut setup = Setup::new().await;
    let (_, calls) = setup.take_slots().await;
    let [four, five] = [4, 5].map(|reader| setup.mark(reader));
    settle().await;
    calls.into_iter().for_each(ScriptCall::succeed);
    setup.next().await.leave(&[5]);
    setup.next().await.fail("OOM command not allowed");
    assert_advanced(four, 4).await;
    assert_unavailable(five).await;
}

/// Replicas acknowledge what each of the two calls wrote.
#[tokio::test(start_paused = true)]
async fn a_rare_mark_waits_for_replicas_too() {
    let mut setup = Setup::with_ack(ACK, Resp::integer(1)).await;
    let mark = setup.mark(1);
    setup.next().await.leave(&[1]);
    setup.next().await.succeed();
    assert_unavailable(mark).await;
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_remembered() {
    let mut setup = Setup::new().await;
    let mark = setup.mark(1);
    setup.next().await.leave(&[1]);
    setup.next().await.deny();
    let quota = Quota { limit: 100, remaining: 0, reset_at_ms: 61_000 };
    let retry_after = Duration::from_secs(60);
    assert_eq!(result_of(mark).await.unwrap(), Outcome::OverQuota { quota, retry_after });
    let (known, left) = setup.parts.shared.denials.get(user(1)).unwrap();
    assert!(known == quota && left <= retry_after, "{known:?} {left:?}");

    let mark = setup.mark(2);
    setup.next().await.succeed();
    assert_advanced(mark, 2).await;
    assert_eq!(setup.parts.shared.denials.get(user(2)), None);
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_call_from_before_a_clear_is_forgotten() {
    let mut setup = Setup::new().await;
    let mark = setup.mark(1);
    let call = setup.next().await;
    setup.parts.shared.denials.clear();
    call.deny();
    assert!(matches!(result_of(mark).await, Ok(Outcome::OverQuota { .. })));
    assert_eq!(setup.parts.shared.denials.get(user(1)), None);
}

#[tokio::test(start_paused = true)]
async fn a_layout_that_cannot_be_read_again_fails_only_the_marks_that_were_not_run() {
    let mut setup = Setup::new().await;
    let group_commit = Arc::clone(&setup.group_commit);
    let marks = [mark_of(1), mark_of(2)];
    let list = tokio::spawn(async move {
        group_commit.run_script(Way::Plain, &marks, &Users::default()).await
    });
    let done = [Resp::integer(1_000), Resp::integer(1), Resp::integer(60_000)];
    let not_run = [Resp::text("error"), Resp::text("LAYOUT the layout has another version")];
    setup.next().await.answer(Resp::array(done.into_iter().chain(not_run)));
    // The layout is read by two commands.
    for _ in 0..2 {
        setup.next().await.fail("OOM command not allowed");
    }
    let results = result_of(list).await.expect("results of both");
    assert!(matches!(results[0], Ok(Outcome::Advanced { .. })), "{:?}", results[0]);
    assert_eq!(results[1].as_ref().unwrap_err().kind, Unavailable);
    setup.assert_no_call().await;
}

/// Two replicas must acknowledge a mark.
const ACK: Option<Ack> =
    Some(Ack { replicas: 2, fsync: false, timeout: Duration::from_millis(500), connections: 4 });

#[tokio::test(start_paused = true)]
async fn a_mark_that_too_few_replicas_have_is_unavailable() {
    let demoted = Resp::error("UNBLOCKED force unblock from blocking operation");
    for (acknowledged, enough) in
        [(Resp::integer(1), false), (Resp::integer(2), true), (demoted, false)]
    {
        let mut setup = Setup::with_ack(ACK, acknowledged).await;
        let mark = setup.mark(1);
        setup.next().await.succeed();
        if enough {
            assert_advanced(mark, 1).await;
        } else {
            assert_unavailable(mark).await;
        }
        // A denial wrote nothing that a replica could lack.
        let denied = setup.mark(2);
        setup.next().await.deny();
        assert!(matches!(result_of(denied).await, Ok(Outcome::OverQuota { .. })));
        assert!(setup.parts.shared.denials.get(user(2)).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_that_waits_has_a_connection_of_its_own() {
    let mut setup = Setup::with_ack(ACK, Resp::integer(2)).await;
    let mut lists: Vec<_> = (1..=8).map(|reader| setup.list(reader)).collect();
    let mut calls = Vec::new();
    for reader in 1..=4 {
        let call = setup.next().await;
        assert_eq!(call.readers(), [reader]);
        calls.push(call);
    }
    let mut connections: Vec<_> = calls.iter().map(|call| call.command.connection).collect();
    connections.dedup();
    assert_eq!(connections, [1, 2, 3, 4], "the first one is for calls that do not wait");
    setup.assert_no_call().await;
    // The third is answered while the others wait.
    calls.remove(2).succeed();
    assert!(result_of(lists.remove(2)).await.unwrap()[0].is_ok());
    let next = setup.next().await;
    assert_eq!((next.readers(), next.command.connection), (vec![5], 3));
    setup.assert_no_call().await;

    // A caller that gives up leaves the connection only once Redis has answered; one that still waits
    // for a connection is not sent.
    for list in &lists[..6] {
        list.abort();
    }
    setup.assert_no_call().await;
    calls.remove(0).succeed();
    assert_eq!(setup.next().await.readers(), [8]);
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_connection_that_never_answers_leave_it() {
    let mut setup = Setup::with_ack(ACK, Resp::integer(2)).await;
    let mut lists: Vec<_> = (1..=5).map(|reader| setup.list(reader)).collect();
    let mut unanswered = Vec::new();
    for _ in 1..=4 {
        unanswered.push(setup.next().await);
    }
    setup.assert_no_call().await;
    // Others take the places of those that hang: the next call is sent.
    setup.redis.connect_calls(&setup.parts).await;
    let next = setup.next().await;
    assert_eq!(next.readers(), [5]);
    next.succeed();
    assert!(result_of(lists.remove(4)).await.unwrap()[0].is_ok());
    let unanswered_max = UNANSWERED_MAX + ACK.unwrap().timeout;
    sleep(unanswered_max * 9 / 10).await;
    assert!(lists.iter().all(|list| !list.is_finished()));
    sleep(unanswered_max / 5).await;
    for list in lists {
        assert_eq!(result_of(list).await.unwrap_err().kind, Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_connections_a_call_waits_on_the_one_for_calls() {
    let ack = Some(Ack { replicas: 1, ..ACK.unwrap() });
    let mut setup = Setup::with_ack(ack, Resp::integer(1)).await;
    let (redis, connections) = (&setup.redis, Arc::new(Connections::new(1, None)));
    let parts = NodeParts { connections, ..setup.parts.clone() };
    redis.connect_calls(&parts).await;
    setup.group_commit = Arc::new(GroupCommit::new(parts, Arc::clone(&setup.group_commit.script)));
    let lists = [setup.list(1), setup.list(2)];
    for (reader, list) in (1..).zip(lists) {
        let call = setup.next().await;
        assert_eq!(call.readers(), [reader]);
        setup.assert_no_call().await;
        call.succeed();
        assert!(result_of(list).await.unwrap()[0].is_ok());
    }
}
