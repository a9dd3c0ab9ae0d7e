//! `ListReadCursors` over the wire: all of a reader's cursors, page by page.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use markread::proto::{ListReadCursorsResponse, ReadCursor};
use markread_harness::caller::{Caller, Refusal};
use markread_harness::{MESSAGE, READER, Redis, Server, eventually};
use tonic::Code;

use super::{MANY, assert_no_quota, quota, reads_used};
use crate::answers::{assert_denied, bad_fields};

async fn page(caller: &Caller, size: i32, token: &str) -> ListReadCursorsResponse {
    caller.page(size, token).await.unwrap().into_inner()
}

/// Marks this message in all of these conversations.
async fn mark_all(caller: &Caller, recipients: impl Iterator<Item = u64>, message: u64) {
    let marks: Vec<_> = recipients.map(|recipient| (recipient, message)).collect();
    for marks in marks.chunks(500) {
        caller.mark_batch(marks).await.unwrap();
    }
}

/// Reads all pages, with these sizes in turn.
async fn pages(caller: &Caller, sizes: &[i32]) -> Vec<ReadCursor> {
    let (mut all, mut token) = (Vec::new(), String::new());
    for &size in sizes.iter().cycle() {
        let read = page(caller, size, &token).await;
        let limit = if size == 0 { 100 } else { usize::try_from(size).unwrap() };
        assert!(read.cursors.len() <= limit);
        token = read.next_page_token;
        let last = token.is_empty();
        assert!(last || read.cursors.len() == limit, "a page that is not the last is full");
        all.extend(read.cursors);
        if last {
            break;
        }
    }
    all
}

/// The message of each recipient; panics on a repeated recipient.
fn by_recipient(cursors: &[ReadCursor]) -> HashMap<u64, u64> {
    let found: HashMap<_, _> =
        cursors.iter().map(|cursor| (cursor.recipient_id, cursor.last_read_event_id)).collect();
    assert_eq!(found.len(), cursors.len(), "no repeats");
    found
}

#[track_caller]
fn assert_invalid(denied: &Refusal, field: &str) {
    assert_denied(denied, Code::InvalidArgument, "INVALID_PARAMETER");
    assert_eq!(bad_fields(denied), [field]);
    assert_no_quota(&denied.metadata);
}

async fn a_page_has_100_cursors_or_as_many_as_requested(server: &Server) {
    let caller = server.caller(READER);
    mark_all(&caller, 1..=1_100, MESSAGE).await;
    for (size, cursors) in [(0, 100), (1, 1), (99, 99), (1_000, 1_000)] {
        let read = page(&caller, size, "").await;
        assert_eq!(read.cursors.len(), cursors);
        assert!(!read.next_page_token.is_empty());
        by_recipient(&read.cursors);
    }
    for size in [1_001, -1, i32::MAX, i32::MIN] {
        assert_invalid(&caller.page(size, "").await.unwrap_err(), "page_size");
    }
}

async fn pages_of_any_size_hold_every_cursor_once(server: &Server) {
    let caller = server.caller(READER);
    let (mut known, mut expected) = (0, HashMap::new());
    for until in [1, 63, 64, 65, 100, 300] {
        mark_all(&caller, known + 1..=until, MESSAGE + until).await;
        expected.extend((known + 1..=until).map(|recipient| (recipient, MESSAGE + until)));
        known = until;
        for sizes in [&[0][..], &[1_000], &[20, 1, 7, 150, 3, 0]] {
            let all = pages(&caller, sizes).await;
            assert_eq!(by_recipient(&all), expected, "{until} in pages of {sizes:?}");
        }
    }
    // Each is the cursor in the reader's state.
    let all = pages(&caller, &[0]).await;
    let recipients: Vec<_> = all.iter().map(|cursor| cursor.recipient_id).collect();
    let states = caller.states(&recipients).await.unwrap().into_inner().states;
    let mine: Vec<_> = states.into_iter().map(|state| state.mine.unwrap()).collect();
    assert_eq!(all, mine);
}

async fn a_list_of_nothing_is_one_empty_page(server: &Server) {
    let read = page(&server.caller(READER), 0, "").await;
    assert_eq!(read, ListReadCursorsResponse::default());
    server.caller(READER).mark(7, MESSAGE).await.unwrap();
    let read = page(&server.caller(READER), 0, "").await;
    assert_eq!((read.cursors.len(), read.next_page_token.as_str()), (1, ""));
    // What others have read is not on the page either.
    assert_eq!(page(&server.caller(7), 0, "").await, ListReadCursorsResponse::default());
}

/// Marks ten conversations, and returns the token after the first four.
async fn token_of(caller: &Caller) -> String {
    mark_all(caller, 1..=10, MESSAGE).await;
    page(caller, 4, "").await.next_page_token
}

async fn an_altered_page_token_is_invalid(server: &Server) {
    let caller = server.caller(READER);
    let token = token_of(&caller).await;
    let mut altered = vec![format!("{token}{token}"), format!(" {token}"), format!("{token}=")];
    for at in 0..token.len() {
        // Every byte replaced by every printable one: whatever the encoding, some of these decode.
        for byte in b'!'..=b'~' {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = byte;
            altered.push(String::from_utf8(bytes).expect("an ASCII token"));
        }
        altered.push(format!("{}{}", &token[..at], &token[at + 1..]));
        altered.push(format!("{}A{}", &token[..at], &token[at..]));
        if at > 0 {
            altered.extend([token[..at].to_owned(), token[at..].to_owned()]);
        }
    }
    // Removing or adding a byte may give the same token.
    altered.retain(|it| *it != token);
    for altered in &altered {
        let Err(denied) = caller.page(4, altered).await else { panic!("{altered} of {token}") };
        assert_invalid(&denied, "page_token");
    }
    assert_eq!(page(&caller, 10, &token).await.cursors.len(), 6, "the token itself is valid");
}

async fn a_malformed_page_token_is_invalid_however_long(server: &Server) {
    let caller = server.caller(READER);
    token_of(&caller).await;
    let long = "A".repeat(60_000);
    for trash in ["x", " ", "0", "AAAA", "====", "1.2.3", "\u{0}", "\u{1F980}", "..", "%00", &long]
    {
        assert_invalid(&caller.page(4, trash).await.unwrap_err(), "page_token");
    }
    let denied = caller.page(-1, "x").await.unwrap_err();
    assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
    let mut fields = bad_fields(&denied);
    fields.sort_unstable();
    assert_eq!(fields, ["page_size", "page_token"], "one violation for each");
}

async fn a_page_token_works_for_its_reader_only(server: &Server) {
    let (caller, other) = (server.caller(READER), server.caller(READER + 1));
    let (token, others) = (token_of(&caller).await, token_of(&other).await);
    assert_ne!(token, others);
    assert_invalid(&caller.page(4, &others).await.unwrap_err(), "page_token");
    assert_invalid(&other.page(4, &token).await.unwrap_err(), "page_token");
    for (caller, token) in [(&caller, &token), (&other, &others)] {
        assert_eq!(page(caller, 10, token).await.cursors.len(), 6);
        // The same page as often as it is requested.
        assert_eq!(page(caller, 6, token).await.cursors.len(), 6);
    }
}

/// Runs each behaviour on a server with Redis and on one with the embedded store.
macro_rules! on_both {
    ($($behaviour:ident;)*) => {
        mod on_redis {
            use super::{MANY, Redis, Server};
            $(#[tokio::test]
            async fn $behaviour() {
                let redis = Redis::start().await;
                super::$behaviour(&Server::on_with(&redis, &MANY).await).await;
            })*
        }
        mod dev {
            use super::{MANY, Server};
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&Server::dev(&MANY).await).await;
            })*
        }
    };
}

on_both! {
    a_page_has_100_cursors_or_as_many_as_requested;
    pages_of_any_size_hold_every_cursor_once;
    a_list_of_nothing_is_one_empty_page;
    an_altered_page_token_is_invalid;
    a_malformed_page_token_is_invalid_however_long;
    a_page_token_works_for_its_reader_only;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_cursors_are_listed_once_amid_marks() {
    const THERE: u64 = 3_000;
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &MANY).await;
    let caller = server.caller(READER);
    mark_all(&caller, 1..=THERE, 1).await;
    let (batches, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let marking = tokio::spawn({
        let (caller, batches, stop) = (server.caller(READER), batches.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let batch = batches.load(Ordering::Relaxed);
                // Few new conversations, so that the pages come to an end.
                let new = (0..5).map(|n| 10_000 + batch * 5 + n);
                let old = (0..35).map(|n| 1 + (batch * 35 + n) % THERE);
                mark_all(&caller, new.chain(old), 2 + batch).await;
                batches.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    eventually("marking has begun", Duration::from_secs(10), async || {
        (batches.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    for sizes in [&[0][..], &[1_000], &[1, 100, 333]] {
        let before = batches.load(Ordering::Relaxed);
        let found = by_recipient(&pages(&caller, sizes).await);
        let meanwhile = batches.load(Ordering::Relaxed) - before;
        // Three pages may take less time than a batch.
        assert!(meanwhile > 0 || sizes == [1_000], "nothing was marked meanwhile");
        let missing: Vec<_> = (1..=THERE).filter(|it| !found.contains_key(it)).collect();
        assert_eq!(missing, [0; 0], "of pages of {sizes:?}, {meanwhile} batches meanwhile");
    }
    stop.store(true, Ordering::Relaxed);
    marking.await.unwrap();
    let all = by_recipient(&pages(&caller, &[1_000]).await);
    assert_eq!(all, redis.cursors(READER).await);
}

#[tokio::test]
async fn a_page_token_is_valid_at_another_server() {
    let redis = Redis::start().await;
    let first = Server::on_with(&redis, &MANY).await;
    mark_all(&first.caller(READER), 1..=300, MESSAGE).await;
    let mut all = page(&first.caller(READER), 100, "").await;
    let other = Server::on_with(&redis, &MANY).await;
    let at_other = page(&other.caller(READER), 70, &all.next_page_token).await;
    // Dropping them kills both.
    drop((first, other));
    let restarted = Server::on_with(&redis, &MANY).await;
    let caller = restarted.caller(READER);
    assert_eq!(page(&caller, 70, &all.next_page_token).await, at_other, "the same page");
    let last = page(&caller, 1_000, &at_other.next_page_token).await;
    assert_eq!(last.next_page_token, "");
    all.cursors.extend(at_other.cursors);
    all.cursors.extend(last.cursors);
    let expected = (1..=300).map(|recipient| (recipient, MESSAGE)).collect();
    assert_eq!(by_recipient(&all.cursors), expected);
}

#[tokio::test]
async fn a_page_token_survives_the_split_into_buckets() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &MANY).await;
    let caller = server.caller(READER);
    mark_all(&caller, 1..=60, MESSAGE).await;
    let first = page(&caller, 30, "").await;
    mark_all(&caller, 1_001..=2_000, MESSAGE).await;
    assert!(redis.buckets(READER).await > 0);
    let (mut all, mut token) = (first.cursors, first.next_page_token);
    while !token.is_empty() {
        let read = page(&caller, 100, &token).await;
        all.extend(read.cursors);
        token = read.next_page_token;
    }
    let found = by_recipient(&all);
    assert!((1..=60).all(|recipient| found.contains_key(&recipient)), "{found:?}");
}

#[tokio::test]
async fn a_page_costs_one_read_and_a_bad_one_none() {
    let redis = Redis::start().await;
    let flags = [&MANY[..], &["--read-rate-limit", "5"]].concat();
    let server = Server::on_with(&redis, &flags).await;
    let caller = server.caller(READER);
    mark_all(&caller, 1..=500, MESSAGE).await;
    let mut token = String::new();
    for left in [4, 3, 2, 1, 0] {
        caller.page(0, "no token").await.unwrap_err();
        caller.page(1_001, &token).await.unwrap_err();
        let answer = caller.page(50, &token).await.unwrap();
        assert_eq!(quota(answer.metadata()), (5, left));
        assert_eq!(reads_used(&redis, READER).await, Some(u64::try_from(5 - left).unwrap()));
        token = answer.into_inner().next_page_token;
    }
    let denied = caller.page(50, &token).await.unwrap_err();
    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    assert_eq!(quota(&denied.metadata), (5, 0));
    let invalid = caller.page(50, "no token").await.unwrap_err();
    assert_invalid(&invalid, "page_token");
    assert_eq!(reads_used(&redis, READER).await, Some(5));

    // In the next window the pages go on.
    redis.run::<()>(&format!("DEL markread:read_quota:{READER}")).await;
    let another = Server::on_with(&redis, &flags).await;
    assert_eq!(page(&another.caller(READER), 50, &token).await.cursors.len(), 50);
}

#[tokio::test]
async fn a_page_may_end_between_any_two_recipients() {
    // The recipients of each pair have the same hash value.
    const MODULUS: u64 = 2_147_483_647;
    const CLOSE: [u64; 8] =
        [601, 601 + MODULUS, 710, 710 + MODULUS, 777, 777 + MODULUS, 2_683, 2_683 + MODULUS];
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &MANY).await;
    let caller = server.caller(READER);
    for others in [0, 30, 200] {
        mark_all(&caller, CLOSE.into_iter().chain(5_000..5_000 + others), MESSAGE).await;
        for size in [1, 2, 3] {
            let found = by_recipient(&pages(&caller, &[size]).await);
            assert!(CLOSE.iter().all(|recipient| found.contains_key(recipient)), "{found:?}");
            assert_eq!(found.len(), CLOSE.len() + usize::try_from(others).unwrap());
        }
    }
}
