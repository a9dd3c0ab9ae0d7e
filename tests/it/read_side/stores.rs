//! Reads of a store: one suite for both implementations.

use std::collections::{BTreeMap, HashMap};

use markread::domain::{
    Conversation, CursorPage, ListOrder, ListPosition, Outcome, Position, Quota, RateLimit,
    ReadCursor, ReadOutcome, UserId,
};
use markread_harness::{MESSAGE, READER, RECIPIENT};

use crate::stores::{LIMIT, READ_LIMIT, Subject, behaviours, mark};

/// A quota that no test here uses up.
const MANY: RateLimit = RateLimit { calls: 1_000_000, ..LIMIT };

behaviours! {
    cursors_are_read_each_in_its_place(LIMIT);
    a_cursor_that_was_never_set_is_none(LIMIT);
    reads_have_a_quota_of_their_own(RateLimit { calls: 1, ..LIMIT });
    what_was_scanned_is_taken_from_the_read_quota(LIMIT);
    a_reader_of_many_conversations_finds_each(MANY);
    pages_hold_every_cursor_once(MANY);
    pages_are_complete_while_others_are_marked(MANY);
    a_page_of_nothing_is_the_last(LIMIT);
    the_newest_entries_are_returned_in_order(MANY);
    entries_after_a_position_are_those_behind_it(LIMIT);
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

fn conversation(reader: u64, recipient: u64) -> Conversation {
    Conversation { reader: user(reader), recipient: user(recipient) }
}

#[track_caller]
fn served<T>(outcome: ReadOutcome<T>) -> (T, Quota) {
    match outcome {
        ReadOutcome::Served { read, quota } => (read, quota),
        ReadOutcome::OverQuota { .. } => panic!("over quota"),
    }
}

async fn read(
    subject: &Subject,
    caller: u64,
    conversations: &[Conversation],
) -> Vec<Option<ReadCursor>> {
    let outcome = subject.store().read_states(user(caller), conversations).await.unwrap();
    let (cursors, _) = served(outcome);
    assert_eq!(cursors.len(), conversations.len());
    cursors
}

/// Marks this message with each of these recipients.
async fn mark_all(subject: &Subject, recipients: impl Iterator<Item = u64>, message: u64) {
    let marks: Vec<_> = recipients.map(|to| mark(READER, to, message)).collect();
    for marks in marks.chunks(500) {
        let outcomes = subject.store().mark_read_all(marks, None).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Advanced { .. }))));
    }
}

async fn cursors_are_read_each_in_its_place(subject: Subject) {
    let mut marked = HashMap::new();
    for (reader, recipient, message) in
        [(READER, RECIPIENT, MESSAGE), (RECIPIENT, READER, MESSAGE - 1), (READER, READER, 5)]
    {
        let outcome = subject.mark_one(mark(reader, recipient, message)).await;
        let Outcome::Advanced { cursor, .. } = outcome else { panic!("{outcome:?}") };
        marked.insert((reader, recipient), cursor);
    }
    let pairs = [(READER, READER), (READER, RECIPIENT), (RECIPIENT, READER), (READER, RECIPIENT)];
    let conversations = pairs.map(|(reader, recipient)| conversation(reader, recipient));
    let expected: Vec<_> = pairs.iter().map(|of| marked.get(of).copied()).collect();
    assert_eq!(read(&subject, READER, &conversations).await, expected);
}

async fn a_cursor_that_was_never_set_is_none(subject: Subject) {
    assert_eq!(read(&subject, READER, &[conversation(READER, RECIPIENT)]).await, [None]);
    subject.mark_one(mark(READER, RECIPIENT, 1)).await;
    let conversations = [
        conversation(READER, RECIPIENT + 1),
        conversation(RECIPIENT, READER),
        conversation(READER, RECIPIENT),
    ];
    let cursors = read(&subject, READER, &conversations).await;
    assert_eq!(cursors.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
}

async fn what_was_scanned_is_taken_from_the_read_quota(subject: Subject) {
    let store = subject.store();
    let take = async |reads| store.take_reads(user(READER), reads).await.unwrap();
    let ((), quota) = served(take(READ_LIMIT.calls - 2).await);
    assert_eq!((quota.limit, quota.remaining), (READ_LIMIT.calls, 2));
    // As many as are left, and those are taken.
    let ReadOutcome::OverQuota { quota, retry_after } = take(3).await else { panic!("3 of 2") };
    assert_eq!((quota.limit, quota.remaining), (READ_LIMIT.calls, 0));
    assert!(retry_after.as_millis() <= READ_LIMIT.window_ms.into(), "{retry_after:?}");
    let outcome = store.list_cursors(user(READER), None, 10).await.unwrap();
    assert!(matches!(outcome, ReadOutcome::OverQuota { .. }));
    // Exactly what is left is enough.
    let others = store.take_reads(user(RECIPIENT), READ_LIMIT.calls).await.unwrap();
    assert_eq!(served(others).1.remaining, 0);
}

async fn reads_have_a_quota_of_their_own(subject: Subject) {
    subject.mark_one(mark(READER, RECIPIENT, 1)).await;
    let over = subject.mark_one(mark(READER, RECIPIENT, 2)).await;
    assert!(matches!(over, Outcome::OverQuota { .. }));
    let many = [conversation(READER, RECIPIENT); 50];
    let store = subject.store();
    for left in (0..READ_LIMIT.calls).rev() {
        // Any kind and size of read costs one.
        let quota = if left % 2 == 0 {
            served(store.read_states(user(READER), &many).await.unwrap()).1
        } else {
            served(store.list_cursors(user(READER), None, 10).await.unwrap()).1
        };
        assert_eq!((quota.limit, quota.remaining), (READ_LIMIT.calls, left));
    }
    let outcome = store.read_states(user(READER), &many).await.unwrap();
    let ReadOutcome::OverQuota { quota, retry_after } = outcome else { panic!("{outcome:?}") };
    assert_eq!((quota.limit, quota.remaining), (READ_LIMIT.calls, 0));
    assert!(retry_after.as_millis() <= READ_LIMIT.window_ms.into(), "{retry_after:?}");
    let outcome = store.list_cursors(user(READER), None, 10).await.unwrap();
    assert!(matches!(outcome, ReadOutcome::OverQuota { .. }));
    served(store.list_cursors(user(RECIPIENT), None, 10).await.unwrap());
    // Reads take nothing of the quota of marks.
    subject.mark_one(mark(RECIPIENT, READER, 1)).await;
}

/// More conversations than any size at which the layout changes.
async fn a_reader_of_many_conversations_finds_each(subject: Subject) {
    const CONVERSATIONS: u64 = 1_500;
    let mut known = 0;
    for until in [63, 64, 65, 66, 127, 128, 129, 200, 700, CONVERSATIONS] {
        mark_all(&subject, known + 1..=until, MESSAGE).await;
        known = until;
        let conversations: Vec<_> = (1..=known + 1).map(|to| conversation(READER, to)).collect();
        let cursors = read(&subject, READER, &conversations).await;
        for (cursor, to) in cursors.iter().zip(1..=known) {
            let cursor = cursor.unwrap_or_else(|| panic!("{to} of {until}"));
            assert_eq!((cursor.recipient.get(), cursor.last_read_event_id.get()), (to, MESSAGE));
        }
        assert_eq!(cursors.last(), Some(&None));
    }
    let older = subject.mark_one(mark(READER, 7, MESSAGE - 1)).await;
    assert!(matches!(older, Outcome::Unchanged { .. }), "{older:?}");
    mark_all(&subject, 1..=CONVERSATIONS, MESSAGE + 1).await;
    let all: Vec<_> = (1..=CONVERSATIONS).map(|to| conversation(READER, to)).collect();
    let cursors = read(&subject, READER, &all).await;
    assert!(cursors.iter().flatten().all(|cursor| cursor.last_read_event_id.get() == MESSAGE + 1));
    assert_eq!(subject.payloads().await.len(), usize::try_from(2 * CONVERSATIONS).unwrap());
}

/// Reads all pages, and calls `meanwhile` after each.
async fn pages(
    subject: &Subject,
    limit: usize,
    mut meanwhile: impl AsyncFnMut(u64),
) -> Vec<ReadCursor> {
    let (mut all, mut after) = (Vec::new(), None);
    for page in 0.. {
        let outcome = subject.store().list_cursors(user(READER), after, limit).await.unwrap();
        let (read, _) = served(outcome);
        assert!(read.cursors.len() <= limit);
        let is_last = read.next.is_none();
        assert!(is_last || read.cursors.len() == limit, "a page that is not the last is full");
        after = read.next;
        all.extend(read.cursors);
        if is_last {
            break;
        }
        meanwhile(page).await;
    }
    all
}

async fn pages_hold_every_cursor_once(subject: Subject) {
    let mut known = 0;
    for until in [1, 64, 65, 1_000] {
        mark_all(&subject, known + 1..=until, MESSAGE).await;
        known = until;
        for limit in [7, 64, 100, 1_000].into_iter().filter(|limit| until < 40 * limit) {
            let all = pages(&subject, usize::try_from(limit).unwrap(), async |_| {}).await;
            let by_recipient: BTreeMap<_, _> =
                all.iter().map(|cursor| (cursor.recipient.get(), cursor)).collect();
            assert_eq!(all.len(), by_recipient.len(), "{until} in pages of {limit}: no repeats");
            assert!(by_recipient.keys().copied().eq(1..=until), "{until} in pages of {limit}");
            assert!(all.iter().all(|cursor| cursor.last_read_event_id.get() == MESSAGE));
        }
    }
}

async fn pages_are_complete_while_others_are_marked(subject: Subject) {
    const THERE: u64 = 60;
    mark_all(&subject, 1..=THERE, MESSAGE).await;
    // More new conversations than before split the hashes that the pages are read from.
    let all = pages(&subject, 10, async |page| {
        if page < 5 {
            let new = 1000 * (page + 1);
            mark_all(&subject, new..new + 40, MESSAGE).await;
        }
    })
    .await;
    let mut seen: Vec<_> = all.iter().map(|cursor| cursor.recipient.get()).collect();
    seen.sort_unstable();
    let repeated = seen.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(repeated, None, "seen twice");
    assert!(
        (1..=THERE).all(|to| seen.binary_search(&to).is_ok()),
        "a cursor that was there throughout is missing"
    );
}

async fn a_page_of_nothing_is_the_last(subject: Subject) {
    assert!(pages(&subject, 100, async |_| {}).await.is_empty());
    subject.mark_one(mark(READER, 5, 1)).await;
    let after = Some(ListPosition::after(ListOrder::Plain, user(5)));
    let outcome = subject.store().list_cursors(user(READER), after, 100).await.unwrap();
    let (page, _) = served(outcome);
    assert_eq!(page, CursorPage { cursors: Vec::new(), next: None });
}

async fn the_newest_entries_are_returned_in_order(subject: Subject) {
    const ENTRIES: u64 = 2_100;
    let log = subject.log_of(READER);
    let newest = log.newest_entries(10).await.unwrap();
    assert_eq!((newest.events.len(), newest.span), (0, None));
    mark_all(&subject, 1..=ENTRIES, MESSAGE).await;
    for limit in [1, 999, 1_000, 1_001, 2_000, 2_099, 2_100, 2_101, 10_000] {
        let newest = log.newest_entries(limit).await.unwrap();
        let recipients: Vec<_> =
            newest.events.iter().map(|event| event.mark.recipient.get()).collect();
        let first = ENTRIES - ENTRIES.min(limit.try_into().unwrap()) + 1;
        assert_eq!(recipients, (first..=ENTRIES).collect::<Vec<_>>(), "{limit}");
        let first = newest.events.first().map(|event| event.position.entry().before().into());
        let span = first.zip(newest.events.last().map(|event| event.position));
        assert_eq!(newest.span, span, "{limit}");
    }
}

async fn entries_after_a_position_are_those_behind_it(subject: Subject) {
    let log = subject.log_of(READER);
    mark_all(&subject, 1..=5, MESSAGE).await;
    let all = log.entries(Position::START, 10).await.unwrap().events;
    assert_eq!(all.len(), 5);
    for (n, event) in all.iter().enumerate() {
        let later = &all[n + 1..];
        for limit in [1, 2, 10] {
            let read = log.entries(event.position, limit).await.unwrap();
            assert_eq!(read.events, later[..later.len().min(limit)], "after {n}, up to {limit}");
            assert_eq!(read.span.map(|(_, end)| end), read.events.last().map(|last| last.position));
        }
    }
}
