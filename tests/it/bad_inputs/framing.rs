//! Bytes of a gRPC call that are not one message.

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ};
use markread_harness::{MESSAGE, READER, RECIPIENT};

use super::{Section, assert_keys, grpc};
use crate::bad_input::Target;

/// The key of a protobuf field: its number and its wire type.
const fn key(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

/// A valid message with another flag in front.
fn flagged(flag: u8) -> Vec<u8> {
    let mut frame = raw::frame(&raw::request(RECIPIENT, MESSAGE));
    frame[0] = flag;
    frame
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let valid = raw::frame(&raw::request(RECIPIENT, MESSAGE));
    vec![
        ("no bytes at all", Vec::new()),
        ("3 of the 5 bytes of a message's prefix", valid[..3].to_vec()),
        ("a prefix without its message", valid[..5].to_vec()),
        ("a message that is cut off", valid[..valid.len() - 1].to_vec()),
        ("two messages", [&valid[..], &valid].concat()),
        ("a message, and one byte more", [&valid[..], &[0]].concat()),
        ("a message, and the prefix of another", [&valid[..], &valid[..5]].concat()),
        ("a message without its prefix", raw::request(RECIPIENT, MESSAGE)),
        ("the flag 1 (compressed), without `grpc-encoding`", flagged(1)),
        ("the flag 2, which is not defined", flagged(2)),
        ("the flag 255", flagged(255)),
        ("a message of 65,537 bytes", raw::frame(&vec![0; 64 * 1024 + 1])),
        ("a prefix that announces 4 GiB", vec![0, 0xff, 0xff, 0xff, 0xff]),
        ("JSON", br#"{"recipientId":"1","lastReadEventId":"2"}"#.to_vec()),
    ]
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("100 bytes of 255", vec![0xff; 100]),
        ("100 bytes of 0", vec![0; 100]),
        ("a field without its value", vec![key(1, 0)]),
        ("a varint of 11 bytes", [&[key(1, 0)][..], &[0xff; 10], &[1]].concat()),
        ("`last_read_event_id` as a string", vec![key(1, 2), 1, b'1']),
        ("`last_read_event_id` as fixed64", vec![key(1, 1), 1, 0, 0, 0, 0, 0, 0, 0]),
        ("the wire type 6, which does not exist", vec![key(1, 6), 1]),
        ("the end of a group that has not begun", vec![key(1, 4)]),
        ("groups nested 60,000 deep", vec![key(15, 3); 60_000]),
        ("an unknown field that announces 4 GiB", vec![key(15, 2), 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("the field number 0", vec![0, 1]),
    ]
}

#[tokio::test]
async fn framing() {
    let mut section = Section::new(
        "Bytes of a gRPC call",
        "Sent to `MarkRead` with valid credentials. Nothing is stored and no quota is used.",
        &["what is sent", "answer"],
    );
    let target = Target::start().await;
    let raw = target.raw().await;
    let reader = Credentials::token_of(READER);
    let framed = messages().into_iter().map(|(what, message)| (what, raw::frame(&message)));
    for (what, body) in frames().into_iter().chain(framed) {
        let answer = raw.send(raw.grpc(MARK_READ, &reader), body).await;
        section.row(&[what, &grpc(&answer)]);
    }
    for encoding in ["gzip", "zstd", "nonsense"] {
        let head = raw.grpc(MARK_READ, &reader).header("grpc-encoding", encoding);
        let answer = raw.send(head, flagged(1)).await;
        section.row(&[&format!("the flag 1, with `grpc-encoding: {encoding}`"), &grpc(&answer)]);
    }
    // `page_token` is the second field of `ListReadCursors`.
    let path = "/markread.v1.MarkReadService/ListReadCursors";
    let body = raw::frame(&[key(2, 2), 2, 0xff, 0xfe]);
    let answer = raw.send(raw.grpc(path, &reader), body).await;
    section.row(&["`ListReadCursors` with a `page_token` that is not UTF-8", &grpc(&answer)]);

    let mut open = raw.begin(raw.grpc(MARK_READ, &reader)).await.unwrap();
    open.body.send_data(flagged(0)[..9].to_vec().into(), false).unwrap();
    section.row(&[
        "half a message, and then nothing for `--call-timeout`",
        &grpc(&open.answer().await),
    ]);
    assert_keys(&target.redis, &[]).await;
    target.assert_unharmed_after(0).await;
    section.check();
}
