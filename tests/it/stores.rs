//! The behaviour of a store: one suite for both implementations, on one Redis and on a cluster.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use markread::domain::{Mark, Nonce, Outcome, Quota, RateLimit, USER_OBJECT_MAX_BYTES, UserId};
use markread::net::workers::Workers;
use markread::store::memory::MemoryStore;
use markread::store::redis::{
    Access, ClusterSeeds, RedisAddress, RedisConfig, RedisFiles, RedisMode, RedisStore,
};
use markread::store::{EventLog, NonceUse, Store, StoreHealth};
use markread_harness::cluster::{partition_of, tags};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, RedisCluster, eventually};
use tokio::task::JoinSet;

/// A store under test, with access to what it published.
pub(crate) enum Subject {
    Memory(Arc<MemoryStore>),
    Redis { store: Arc<RedisStore>, redis: Arc<Redis> },
    Cluster { store: Arc<RedisStore>, cluster: Arc<RedisCluster> },
}

impl Subject {
    pub(crate) fn memory(rate_limit: RateLimit) -> Self {
        Self::Memory(Arc::new(MemoryStore::new(rate_limit, READ_LIMIT, 0)))
    }

    pub(crate) async fn redis(rate_limit: RateLimit) -> Self {
        Self::on(Arc::new(Redis::start().await), rate_limit).await
    }

    /// A new store, connected to this Redis.
    pub(crate) async fn on(redis: Arc<Redis>, rate_limit: RateLimit) -> Self {
        let address = RedisAddress::new(&redis.url(), None, RedisFiles::default()).unwrap();
        let mode = RedisMode::Standalone(address);
        let store = connected(mode, rate_limit, Access::Serve).await;
        Self::Redis { store, redis }
    }

    pub(crate) async fn cluster(rate_limit: RateLimit) -> Self {
        Self::on_cluster(Arc::new(RedisCluster::start(3, 0).await), rate_limit).await
    }

    /// A new store, connected to this cluster.
    pub(crate) async fn on_cluster(cluster: Arc<RedisCluster>, rate_limit: RateLimit) -> Self {
        let address = |url: &String| RedisAddress::new(url, None, RedisFiles::default()).unwrap();
        let seeds = cluster.urls().iter().map(address).collect();
        let seeds = ClusterSeeds { seeds, partitions: PARTITIONS };
        let store = connected(RedisMode::Cluster(seeds), rate_limit, Access::Serve).await;
        Self::Cluster { store, cluster }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Redis { store, .. } | Self::Cluster { store, .. } => store.clone(),
        }
    }

    /// The log with a reader's events.
    pub(crate) fn log_of(&self, reader: u64) -> Arc<dyn EventLog> {
        let log = match self {
            Self::Memory(_) | Self::Redis { .. } => 0,
            Self::Cluster { .. } => partition_of(reader, PARTITIONS),
        };
        self.store().logs().swap_remove(log)
    }

    /// Makes all marks go by the script that does rare ones.
    pub(crate) fn use_full_script_only(&self) {
        if let Self::Redis { store, .. } | Self::Cluster { store, .. } = self {
            store.use_full_script_only();
        }
    }

    pub(crate) async fn payloads(&self) -> Vec<String> {
        match self {
            Self::Memory(store) => store.events().into_iter().map(|(_, event)| event).collect(),
            Self::Redis { redis, .. } => redis.payloads().await,
            Self::Cluster { cluster, .. } => cluster.payloads().await,
        }
    }

    /// Stores a user object, valid or not.
    pub(crate) async fn put_user(&self, user: u64, value: &[u8]) {
        match self {
            Self::Memory(store) => store.put_user(user.try_into().unwrap(), value),
            Self::Redis { redis, .. } => redis.put_user(user, value).await,
            Self::Cluster { cluster, .. } => {
                cluster.first_owner(&format!("user:{user}")).put_user(user, value).await;
            }
        }
    }

    /// The message of a conversation's cursor.
    pub(crate) async fn cursor(&self, reader: UserId, recipient: UserId) -> Option<u64> {
        match self {
            Self::Memory(store) => {
                store.cursor(reader, recipient).map(|cursor| cursor.last_read_event_id.get())
            }
            Self::Redis { redis, .. } => {
                redis.cursors(reader.get()).await.get(&recipient.get()).copied()
            }
            Self::Cluster { cluster, .. } => {
                let tag = &tags(PARTITIONS)[partition_of(reader.get(), PARTITIONS)];
                let key = format!("markread:{{{tag}}}:cursors:{reader}");
                cluster.first_owner(&key).run(&format!("HGET {key} {recipient}")).await
            }
        }
    }

    pub(crate) async fn mark_one(&self, mark: Mark) -> Outcome {
        self.store().mark_read(mark, None).await.unwrap()
    }
}

/// A store that has connected.
pub(crate) async fn connected(
    mode: RedisMode,
    rate_limit: RateLimit,
    access: Access,
) -> Arc<RedisStore> {
    let config = RedisConfig {
        stream_max_bytes: None,
        user_object_max_bytes: USER_OBJECT_MAX_BYTES,
        mode,
        stream: "direct_message_mark_read_events".to_owned(),
        stream_maxlen: 0,
        user_key_prefix: "user:".to_owned(),
        rate_limit,
        read_rate_limit: READ_LIMIT,
        ack: None,
        access,
    };
    let (store, _supervisor) = RedisStore::start(config, Workers::here());
    let health = store.health();
    eventually("the store connects", Duration::from_secs(10), async || {
        let StoreHealth::Ready { warnings } = &*health.borrow() else { return None };
        // A cluster is ready once any partition is served.
        let is_whole = warnings.iter().all(|warning| !warning.contains("not served"));
        is_whole.then_some(())
    })
    .await;
    store
}

pub(crate) fn mark(reader: u64, recipient: u64, message: u64) -> Mark {
    Mark {
        reader: reader.try_into().unwrap(),
        recipient: recipient.try_into().unwrap(),
        last_read_event_id: message.try_into().unwrap(),
    }
}

pub(crate) const LIMIT: RateLimit = RateLimit { calls: 1000, window_ms: 900_000 };

/// The partitions of a cluster.
pub(crate) const PARTITIONS: u16 = 64;

/// The read quota of every store here.
pub(crate) const READ_LIMIT: RateLimit = RateLimit { calls: 200, window_ms: 900_000 };

/// Whether an outcome advanced the cursor, and the cursor's message.
fn cursor_of(outcome: &Outcome) -> (bool, u64) {
    match outcome {
        Outcome::Advanced { cursor, .. } => (true, cursor.last_read_event_id.get()),
        Outcome::Unchanged { cursor, .. } => (false, cursor.last_read_event_id.get()),
        Outcome::OverQuota { .. } => panic!("over quota"),
    }
}

fn quota_of(outcome: &Outcome) -> Quota {
    match *outcome {
        Outcome::Advanced { quota, .. }
        | Outcome::Unchanged { quota, .. }
        | Outcome::OverQuota { quota, .. } => quota,
    }
}

/// Runs each behaviour against all stores.
macro_rules! behaviours {
    ($($name:ident($limit:expr);)*) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(Subject::memory($limit)).await; })*
        }
        mod redis_store {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(Subject::redis($limit).await).await; })*
        }
        mod cluster {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(Subject::cluster($limit).await).await; })*
        }
    };
}

pub(crate) use behaviours;

behaviours! {
    a_cursor_moves_forward_and_only_forward(LIMIT);
    a_cursor_belongs_to_one_conversation_of_one_reader(LIMIT);
    each_advance_publishes_one_event(LIMIT);
    a_list_is_done_in_order_each_mark_for_itself(LIMIT);
    an_empty_list_is_nothing_to_do(LIMIT);
    racing_marks_end_at_the_greatest(RateLimit { calls: 100_000, ..LIMIT });
    an_event_shows_users_as_they_are_stored(LIMIT);
    a_call_carries_1_mib_of_user_objects_and_the_other_users_ids(LIMIT);
    a_nonce_is_used_once(LIMIT);
    a_reader_over_quota_uses_no_nonce(RateLimit { calls: 1, ..LIMIT });
    a_window_serves_its_calls_and_no_more(RateLimit { calls: 3, ..LIMIT });
    a_quota_belongs_to_one_reader(RateLimit { calls: 1, ..LIMIT });
    a_window_ends_and_the_next_begins(RateLimit { calls: 1, window_ms: 300 });
}

async fn a_cursor_moves_forward_and_only_forward(subject: Subject) {
    let table = [
        (MESSAGE, (true, MESSAGE)),
        (MESSAGE, (false, MESSAGE)),
        (MESSAGE - 1, (false, MESSAGE)),
        (1, (false, MESSAGE)),
        (MESSAGE + 1, (true, MESSAGE + 1)),
        (i64::MAX.cast_unsigned(), (true, i64::MAX.cast_unsigned())),
        (MESSAGE, (false, i64::MAX.cast_unsigned())),
    ];
    for (message, expected) in table {
        let outcome = subject.mark_one(mark(READER, RECIPIENT, message)).await;
        assert_eq!(cursor_of(&outcome), expected, "{message}");
    }
}

async fn a_cursor_belongs_to_one_conversation_of_one_reader(subject: Subject) {
    for (reader, recipient) in [(1, 2), (2, 1), (1, 3), (1, 1)] {
        let outcome = subject.mark_one(mark(reader, recipient, 5)).await;
        assert_eq!(cursor_of(&outcome), (true, 5), "{reader} {recipient}");
    }
    let outcome = subject.mark_one(mark(1, 2, 6)).await;
    assert_eq!(cursor_of(&outcome), (true, 6));
    let outcome = subject.mark_one(mark(2, 1, 5)).await;
    assert_eq!(cursor_of(&outcome), (false, 5));
}

async fn each_advance_publishes_one_event(subject: Subject) {
    let mut expected = Vec::new();
    for message in [1, 1, 3, 2, 3, 4] {
        let outcome = subject.mark_one(mark(READER, RECIPIENT, message)).await;
        if let Outcome::Advanced { cursor, .. } = outcome {
            expected.push(format!(
                r#"{{"direct_message_mark_read_events":[{{"created_timestamp":"{}","sender_id":"{READER}","last_read_event_id":"{message}","target":{{"recipient_id":"{RECIPIENT}"}}}}],"users":{{"{READER}":{{"id":"{READER}"}},"{RECIPIENT}":{{"id":"{RECIPIENT}"}}}}}}"#,
                cursor.read_at_ms
            ));
        }
    }
    assert_eq!(expected.len(), 3);
    assert_eq!(subject.payloads().await, expected);
}

async fn a_list_is_done_in_order_each_mark_for_itself(subject: Subject) {
    let marks = [mark(1, 2, 5), mark(1, 2, 4), mark(1, 2, 6), mark(3, 2, 1), mark(1, 2, 6)];
    let outcomes = subject.store().mark_read_all(&marks, None).await.unwrap();
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let cursors: Vec<_> = outcomes.iter().map(cursor_of).collect();
    assert_eq!(cursors, [(true, 5), (false, 5), (true, 6), (true, 1), (false, 6)]);
    let left: Vec<_> = outcomes.iter().map(|outcome| quota_of(outcome).remaining).collect();
    assert_eq!(left, [999, 998, 997, 999, 996]);
    assert_eq!(subject.payloads().await.len(), 3);
}

async fn an_empty_list_is_nothing_to_do(subject: Subject) {
    assert!(subject.store().mark_read_all(&[], None).await.unwrap().is_empty());
}

async fn racing_marks_end_at_the_greatest(subject: Subject) {
    const TASKS: u64 = 64;
    const MARKS: u64 = 25;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = subject.store();
        tasks.spawn(async move {
            let mut advanced = Vec::new();
            for n in 0..MARKS {
                // Each task has every ID once, in another order.
                let message = 1 + (n * 7 + task) % MARKS * TASKS + task;
                let marked = store.mark_read(mark(READER, RECIPIENT, message), None).await;
                let (moved, at) = cursor_of(&marked.unwrap());
                assert!(at >= message, "the answered cursor is behind the mark");
                if moved {
                    advanced.push(at);
                }
            }
            advanced
        });
    }
    let advanced: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    let greatest = TASKS * MARKS;
    let outcome = subject.mark_one(mark(READER, RECIPIENT, 1)).await;
    assert_eq!(cursor_of(&outcome), (false, greatest));

    let published: Vec<u64> =
        subject.payloads().await.iter().map(|json| message_of(json)).collect();
    assert!(published.is_sorted_by(|a, b| a < b), "events are not strictly increasing");
    assert_eq!(published.len(), advanced.len());
    let advanced: HashSet<u64> = advanced.into_iter().collect();
    assert_eq!(advanced, published.into_iter().collect());
}

fn message_of(payload: &str) -> u64 {
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
    let event = &payload["direct_message_mark_read_events"][0];
    event["last_read_event_id"].as_str().unwrap().parse().unwrap()
}

/// The users in a payload, byte for byte.
fn users_of(payload: &str) -> &str {
    payload.split_once(r#""users":"#).unwrap().1.strip_suffix('}').unwrap()
}

/// A user object with this many bytes.
fn object_of(bytes: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8))
}

async fn an_event_shows_users_as_they_are_stored(subject: Subject) {
    let object = "{\"id\":1,  \"name\":\"\\u00e9 🙂\",\n\"entities\":{\"url\":null}}";
    subject.put_user(1, format!("\r\n {object}\t").as_bytes()).await;
    subject.put_user(2, b"[]").await;
    subject.put_user(3, b"{\"id\":").await;
    subject.put_user(4, object_of(USER_OBJECT_MAX_BYTES).as_bytes()).await;
    subject.put_user(5, object_of(USER_OBJECT_MAX_BYTES + 1).as_bytes()).await;
    subject.put_user(6, b"{\"a\":\"\xff\"}").await;
    for recipient in [1, 2, 3, 5, 6, 7] {
        subject.mark_one(mark(1, recipient, 1)).await;
        let payloads = subject.payloads().await;
        let others = match recipient {
            1 => String::new(),
            _ => format!(",\"{recipient}\":{{\"id\":\"{recipient}\"}}"),
        };
        let expected = format!("{{\"1\":{object}{others}}}");
        assert_eq!(users_of(payloads.last().unwrap()), expected, "{recipient}");
    }
    subject.mark_one(mark(4, 2, 1)).await;
    let payloads = subject.payloads().await;
    assert!(
        users_of(payloads.last().unwrap()).len() > USER_OBJECT_MAX_BYTES,
        "the largest object that is included"
    );
}

async fn a_call_carries_1_mib_of_user_objects_and_the_other_users_ids(subject: Subject) {
    const FIT: u64 = 64;
    let object = object_of(USER_OBJECT_MAX_BYTES);
    for user in 1..=FIT + 2 {
        subject.put_user(user, object.as_bytes()).await;
    }
    let marks: Vec<_> = (2..=FIT + 2).map(|recipient| mark(1, recipient, 1)).collect();
    let outcomes = subject.store().mark_read_all(&marks, None).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Advanced { .. }))));
    let shown = subject.payloads().await;
    let whole = |payload: &&String| payload.len() > 2 * object.len();
    assert_eq!(shown.iter().take_while(whole).count(), usize::try_from(FIT).unwrap() - 1);
    for (payload, recipient) in shown.iter().zip(2..).skip(usize::try_from(FIT).unwrap() - 1) {
        assert!(payload.ends_with(&format!("\"{recipient}\":{{\"id\":\"{recipient}\"}}}}}}")));
    }
}

async fn a_nonce_is_used_once(subject: Subject) {
    let nonce = Nonce { timestamp: 1_795_543_731, digest: [7; 32] };
    let (store, reader) = (subject.store(), mark(READER, RECIPIENT, 1).reader);
    assert_eq!(store.use_nonce(reader, nonce).await.unwrap(), NonceUse::First);
    for _ in 0..2 {
        assert_eq!(store.use_nonce(reader, nonce).await.unwrap(), NonceUse::Repeated);
    }
    for other in [Nonce { timestamp: 1, ..nonce }, Nonce { digest: [8; 32], ..nonce }] {
        assert_eq!(store.use_nonce(reader, other).await.unwrap(), NonceUse::First);
    }
    assert_eq!(store.use_nonce(reader, nonce).await.unwrap(), NonceUse::Repeated);
    store.forget_nonce(reader, nonce).await.unwrap();
    assert_eq!(store.use_nonce(reader, nonce).await.unwrap(), NonceUse::First);
}

async fn a_reader_over_quota_uses_no_nonce(subject: Subject) {
    let nonce = |n| Nonce { timestamp: 1_795_543_731, digest: [n; 32] };
    let (store, reader) = (subject.store(), mark(1, 2, 1).reader);
    assert_eq!(store.use_nonce(reader, nonce(1)).await.unwrap(), NonceUse::First);
    let used = quota_of(&subject.mark_one(mark(1, 2, 1)).await);
    for n in [1, 2, 2] {
        let NonceUse::OverQuota { quota, retry_after } =
            store.use_nonce(reader, nonce(n)).await.unwrap()
        else {
            panic!("the reader is over quota")
        };
        assert_eq!((quota.limit, quota.remaining), (1, 0));
        assert_eq!(quota.reset_at_ms, used.reset_at_ms);
        assert!(retry_after.as_millis() <= LIMIT.window_ms.into(), "{retry_after:?}");
    }
    let other = mark(2, 1, 1).reader;
    assert_eq!(store.use_nonce(other, nonce(2)).await.unwrap(), NonceUse::First);
}

async fn a_window_serves_its_calls_and_no_more(subject: Subject) {
    for (message, remaining) in [(1, 2), (1, 1), (2, 0)] {
        let quota = quota_of(&subject.mark_one(mark(READER, RECIPIENT, message)).await);
        assert_eq!((quota.limit, quota.remaining), (3, remaining));
    }
    let events = subject.payloads().await;
    for _ in 0..2 {
        let outcome = subject.mark_one(mark(READER, RECIPIENT, 3)).await;
        let Outcome::OverQuota { quota, retry_after } = outcome else { panic!("{outcome:?}") };
        assert_eq!((quota.limit, quota.remaining), (3, 0));
        assert!(retry_after.as_millis() <= LIMIT.window_ms.into(), "{retry_after:?}");
    }
    assert_eq!(subject.payloads().await, events);
}

async fn a_quota_belongs_to_one_reader(subject: Subject) {
    subject.mark_one(mark(1, 2, 1)).await;
    assert!(matches!(subject.mark_one(mark(1, 3, 1)).await, Outcome::OverQuota { .. }));
    assert!(matches!(subject.mark_one(mark(2, 1, 1)).await, Outcome::Advanced { .. }));
}

async fn a_window_ends_and_the_next_begins(subject: Subject) {
    let first = quota_of(&subject.mark_one(mark(1, 2, 1)).await);
    let outcome = subject.mark_one(mark(1, 2, 2)).await;
    let Outcome::OverQuota { quota, retry_after } = outcome else { panic!("{outcome:?}") };
    assert_eq!(quota.reset_at_ms, first.reset_at_ms);
    tokio::time::sleep(retry_after + Duration::from_millis(10)).await;
    let outcome = subject.mark_one(mark(1, 2, 2)).await;
    assert_eq!(cursor_of(&outcome), (true, 2));
    assert!(quota_of(&outcome).reset_at_ms > first.reset_at_ms);
}
