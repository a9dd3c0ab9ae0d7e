//! Messages of the methods, which are valid protobuf and have wrong values.

use markread::proto::batch_mark_read_result::Result as ItemResult;
use markread::proto::{
    BatchGetReadStatesRequest, BatchMarkReadRequest, BatchMarkReadResponse, GetReadStateRequest,
    ListReadCursorsRequest, ListReadCursorsResponse, MarkReadRequest, WatchMarkReadEventsRequest,
};
use markread_harness::caller::Credentials;
use markread_harness::raw::{self, Raw, RawAnswer};
use markread_harness::{MESSAGE, READER, RECIPIENT};
use prost::Message;

use super::{Section, assert_keys, code, grpc};
use crate::answers::tokens::seconds_from_now;
use crate::bad_input::Target;

const ABOVE_MAX: u64 = 1 << 63;

/// Who has a list of cursors to page through.
const LISTED: u64 = 42;

async fn call(raw: &Raw, method: &str, user: u64, message: &[u8]) -> Result<RawAnswer, h2::Error> {
    let path = format!("/markread.v1.MarkReadService/{method}");
    raw.send(raw.grpc(&path, &Credentials::token_of(user)), raw::frame(message)).await
}

fn mark(recipient_id: u64, last_read_event_id: u64) -> MarkReadRequest {
    MarkReadRequest { last_read_event_id, recipient_id }
}

/// What is wrong, the method, and the message.
type Input = (String, &'static str, Vec<u8>);

fn marks() -> Vec<Input> {
    [
        ("an empty message", 0, 0),
        ("no `recipient_id`, which is 0", 0, MESSAGE),
        ("no `last_read_event_id`, which is 0", RECIPIENT, 0),
        ("`recipient_id` of 2^63", ABOVE_MAX, MESSAGE),
        ("`last_read_event_id` of 2^63", RECIPIENT, ABOVE_MAX),
        ("`recipient_id` of 2^64 − 1, which is −1 as int64", u64::MAX, MESSAGE),
        ("both are 2^64 − 1", u64::MAX, u64::MAX),
    ]
    .map(|(what, recipient, message)| {
        (what.to_owned(), "MarkRead", mark(recipient, message).encode_to_vec())
    })
    .into()
}

fn batches() -> Vec<Input> {
    let batch = |requests: Vec<_>| BatchMarkReadRequest { requests }.encode_to_vec();
    let states =
        |recipient_ids: Vec<_>| BatchGetReadStatesRequest { recipient_ids }.encode_to_vec();
    let state = |recipient_id| GetReadStateRequest { recipient_id }.encode_to_vec();
    let (marks, reads, read) = ("BatchMarkRead", "BatchGetReadStates", "GetReadState");
    [
        ("no items", marks, batch(Vec::new())),
        ("501 items", marks, batch(vec![mark(RECIPIENT, MESSAGE); 501])),
        ("one item, invalid", marks, batch(vec![mark(0, MESSAGE)])),
        ("30 items, each invalid in both fields", marks, batch(vec![mark(0, ABOVE_MAX); 30])),
        ("no `recipient_id`", read, state(0)),
        ("`recipient_id` of 2^63", read, state(ABOVE_MAX)),
        ("no IDs", reads, states(Vec::new())),
        ("501 IDs", reads, states((1..=501).collect())),
        ("a zero between two IDs", reads, states(vec![1, 0, 2])),
        ("30 IDs of 2^63", reads, states(vec![ABOVE_MAX; 30])),
    ]
    .map(|(what, method, message)| (what.to_owned(), method, message))
    .into()
}

/// Pages, one of whose tokens belongs to a reader and is altered.
fn pages(token: &str) -> Vec<Input> {
    let page = |what: String, page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        (what, "ListReadCursors", ListReadCursorsRequest { page_size, page_token }.encode_to_vec())
    };
    let other = if token.ends_with('A') { "B" } else { "A" };
    let altered = format!("{}{other}", &token[..token.len() - 1]);
    let mut pages = vec![
        page("`page_size` of −1".to_owned(), -1, ""),
        page("`page_size` of 1001".to_owned(), 1001, ""),
        page("`page_size` of −2^31, `page_token` of `x`".to_owned(), i32::MIN, "x"),
        page("the page token of another reader".to_owned(), 1, token),
        page("a page token whose last character was altered".to_owned(), 1, &altered),
        page("a page token that was cut in half".to_owned(), 1, &token[..token.len() / 2]),
        page("a page token of 60,000 characters".to_owned(), 1, &"A".repeat(60_000)),
    ];
    for text in ["x", " ", "0", "====", "%00", "\u{0}", "\u{1F980}"] {
        pages.push(page(format!("`page_token` of {}", code(text)), 1, text));
    }
    pages
}

fn watches() -> Vec<Input> {
    let watch = |what: String, after: &str| {
        let after = after.to_owned();
        (what, "WatchMarkReadEvents", WatchMarkReadEventsRequest { after }.encode_to_vec())
    };
    let texts =
        ["x", "1", "-", "1-", "-1", "1-2-3", "1-x", "01-0", "+1-0", " 0-0", "0-0\n", "$", "0x1-0"];
    let mut watches: Vec<_> =
        texts.map(|text| watch(format!("`after` of {}", code(text)), text)).into();
    watches.push(watch("`after` of 2^64 and `-0`".to_owned(), "18446744073709551616-0"));
    watches.push(watch("`after` of 10,000 digits".to_owned(), &"1".repeat(10_000)));
    watches
}

#[tokio::test]
async fn messages() {
    let mut section = Section::new(
        "Messages of gRPC",
        "Valid protobuf with wrong values. Nothing is stored and no quota is used, but for what the rows say.",
        &["method", "what is sent", "answer"],
    );
    let target = Target::start().await;
    let raw = target.raw().await;
    let plain = [marks(), batches(), watches()].concat();
    for (what, method, message) in plain {
        let answer = call(&raw, method, READER, &message).await;
        section.row(&[&format!("`{method}`"), &what, &grpc(&answer)]);
    }
    assert_keys(&target.redis, &[]).await;
    for (what, method, message) in pages(&page_token(&raw).await) {
        let answer = call(&raw, method, READER, &message).await;
        section.row(&[&format!("`{method}`"), &what, &grpc(&answer)]);
    }
    let read = format!("markread:read_quota:{READER}");
    assert_eq!(target.redis.run::<u64>(&format!("EXISTS {read}")).await, 0, "no read was counted");

    let after = format!("{}-0", seconds_from_now(3600) * 1000);
    let watch = WatchMarkReadEventsRequest { after }.encode_to_vec();
    let answer = call(&raw, "WatchMarkReadEvents", READER, &watch).await;
    let what = "`after` of an hour from now; one of the read quota is used";
    section.row(&["`WatchMarkReadEvents`", what, &grpc(&answer)]);
    assert_eq!(target.redis.run::<u64>(&format!("GET {read}")).await, 1);
    section.row(&[
        "`BatchMarkRead`",
        "three items, the second of which is invalid; two are marked",
        &partly(&raw).await,
    ]);
    target.assert_unharmed_after(2).await;
    section.check();
}

/// A valid page token of another reader.
async fn page_token(raw: &Raw) -> String {
    let requests = (1..=3).map(|recipient| mark(recipient, MESSAGE)).collect();
    let batch = BatchMarkReadRequest { requests }.encode_to_vec();
    call(raw, "BatchMarkRead", LISTED, &batch).await.unwrap();
    let list = ListReadCursorsRequest { page_size: 1, page_token: String::new() };
    let answer = call(raw, "ListReadCursors", LISTED, &list.encode_to_vec()).await.unwrap();
    let page = ListReadCursorsResponse::decode(answer.body.slice(5..)).unwrap();
    assert!(!page.next_page_token.is_empty(), "there is another page");
    page.next_page_token
}

/// Sends a batch with one invalid item, and returns the answer with that of each item.
async fn partly(raw: &Raw) -> String {
    let requests = vec![mark(1, MESSAGE), mark(0, MESSAGE), mark(2, MESSAGE)];
    let batch = BatchMarkReadRequest { requests }.encode_to_vec();
    let answer = call(raw, "BatchMarkRead", READER, &batch).await;
    let body = answer.as_ref().unwrap().body.slice(5..);
    let results = BatchMarkReadResponse::decode(body).unwrap().results;
    let items = results.into_iter().map(|result| match result.result.unwrap() {
        ItemResult::Response(_) => "OK".to_owned(),
        ItemResult::Error(error) => format!("`{}`", error.reason),
    });
    format!("{}; items: {}", grpc(&answer), items.collect::<Vec<_>>().join(", "))
}
