//! Bodies of gRPC calls that are not a valid request.

use std::time::{Duration, Instant};

use markread_harness::raw::{self, MARK_READ};
use markread_harness::{MESSAGE, READER, RECIPIENT};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;
use tonic::Code;

use super::{Target, assert_invalid, reader, valid_frame};

const MIB: usize = 1024 * 1024;

/// A valid message with another first byte, the flag.
fn flagged(flag: u8) -> Vec<u8> {
    let mut frame = valid_frame();
    frame[0] = flag;
    frame
}

#[tokio::test]
async fn a_body_that_is_not_one_whole_frame_is_invalid() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let valid = valid_frame();
    let mut truncated: Vec<_> = (0..valid.len()).map(|end| valid[..end].to_vec()).collect();
    truncated.push(vec![0, 0, 0, 0, 1]);
    for body in truncated {
        let denied = raw.mark_read(READER, body.clone()).await.refusal();
        assert_invalid(&denied, &format!("{body:?}"));
    }
    for (what, body) in [
        ("marked as compressed, which it is not", flagged(1)),
        ("an undefined flag", flagged(2)),
        ("an undefined flag", flagged(255)),
        ("two messages", [valid_frame(), valid_frame()].concat()),
        ("a second message, empty", [valid_frame(), raw::frame(&[])].concat()),
        ("three messages", [valid_frame(), valid_frame(), valid_frame()].concat()),
        ("a second message, cut", [&valid_frame()[..], &valid_frame()[..9]].concat()),
        ("bytes behind the message", [&valid_frame()[..], &[0]].concat()),
        ("a message without its prefix", raw::request(RECIPIENT, MESSAGE)),
        ("JSON", br#"{"recipientId":"1","lastReadEventId":"2"}"#.to_vec()),
    ] {
        // Without a prefix, the first byte may be read as a flag and the next as a length of
        // gigabytes.
        let denied = raw.mark_read(READER, body).await.refusal();
        if denied.code == Code::ResourceExhausted {
            assert_eq!(denied.reason, "MESSAGE_TOO_LARGE", "{what}");
        } else {
            assert_invalid(&denied, what);
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn bytes_that_are_not_protobuf_are_invalid() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let valid = raw::request(RECIPIENT, MESSAGE);
    let mut messages: Vec<Vec<u8>> = (0..valid.len()).map(|end| valid[..end].to_vec()).collect();
    messages.extend([
        vec![1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        vec![1 << 3 | 1, 1, 0, 0, 0, 0, 0, 0, 0],
        vec![1 << 3 | 2, 1, b'1'],
        vec![1 << 3 | 5, 1, 0, 0, 0],
        vec![1 << 3 | 6, 1],
        vec![1 << 3 | 7, 1],
        vec![15 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f],
        // Nested groups, as deep as the size allows.
        vec![15 << 3 | 3; 60 * 1024],
        vec![0; 1024],
        vec![0xff; 1024],
    ]);
    for message in messages {
        let denied = raw.mark_read(READER, raw::frame(&message)).await.refusal();
        assert_invalid(&denied, &format!("{:?}", &message[..message.len().min(20)]));
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn random_bytes_get_a_documented_status() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let mut random = StdRng::seed_from_u64(8_754_578_330_382_663_743);
    let mut served = 0;
    for round in 0..400 {
        let mut bytes = vec![0; random.random_range(1..200)];
        random.fill_bytes(&mut bytes);
        // A message of random bytes, random bytes as a whole body, a message with one byte changed.
        let body = match round % 4 {
            0 | 1 => raw::frame(&bytes),
            2 => bytes,
            _ => {
                let mut message = raw::request(RECIPIENT, MESSAGE);
                let at = random.random_range(0..message.len());
                message[at] = bytes[0];
                raw::frame(&message)
            }
        };
        let status = raw.mark_read(READER, body.clone()).await.grpc_status();
        match status.code() {
            Code::Ok => served += 1,
            Code::InvalidArgument => {}
            Code::ResourceExhausted if round % 4 == 2 => {}
            other => panic!("{other:?} for {body:?}"),
        }
    }
    target.assert_unharmed_after(served).await;
}

#[tokio::test]
async fn a_message_of_5_mib_is_too_large_sent_or_only_announced() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let whole = raw::frame(&vec![b'x'; 5 * MIB]);
    let announced = whole[..5].to_vec();
    let endless = vec![0, 0xff, 0xff, 0xff, 0xff];
    for body in [announced.clone(), endless, whole] {
        let denied = raw.mark_read(READER, body).await.refusal();
        assert_eq!(denied.code, Code::ResourceExhausted, "{denied:?}");
        assert_eq!(denied.reason, "MESSAGE_TOO_LARGE");
    }
    // It is refused as soon as its length is known, not by the call timeout.
    let mut open = raw.begin(raw.grpc(MARK_READ, &reader())).await.unwrap();
    open.body.send_data(announced.into(), false).unwrap();
    assert_eq!(open.answer().await.unwrap().refusal().reason, "MESSAGE_TOO_LARGE");
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_compressed_message_is_not_inflated() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let mut served = 0;
    for encoding in ["gzip", "deflate", "zstd", "nonsense", "identity"] {
        let call = |frame| {
            let head = raw.grpc(MARK_READ, &reader()).header("grpc-encoding", encoding);
            let raw = raw.clone();
            async move { raw.send(head, frame).await.unwrap() }
        };
        let answer = call(flagged(1)).await;
        if encoding == "identity" {
            // The flag contradicts the header.
            assert_invalid(&answer.refusal(), encoding);
        } else {
            // As the gRPC protocol says, with what would be accepted.
            assert_eq!(answer.grpc_status().code(), Code::Unimplemented, "{encoding}");
            let accepted = answer.head.get("grpc-accept-encoding");
            assert_eq!(accepted.unwrap(), "identity", "{encoding}");
        }
        // Clients announce an encoding for messages that they send as they are.
        let answer = call(valid_frame()).await;
        assert_eq!(answer.grpc_status().code(), Code::Ok, "{encoding}");
        served += 1;
    }
    target.assert_unharmed_after(served).await;
}

/// Health is asked by clients with the same settings.
#[tokio::test]
async fn health_is_answered_whatever_encoding_is_announced() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let check = |flag: u8| {
        let head = raw.grpc("/grpc.health.v1.Health/Check", &reader());
        let (raw, head) = (raw.clone(), head.header("grpc-encoding", "gzip"));
        async move { raw.send(head, vec![flag, 0, 0, 0, 0]).await.unwrap() }
    };
    assert_eq!(check(0).await.grpc_status().code(), Code::Ok);
    let answer = check(1).await;
    assert_eq!(answer.grpc_status().code(), Code::Unimplemented);
    assert_eq!(answer.head["grpc-accept-encoding"], "identity");
    target.assert_unharmed_after(0).await;
}

/// Sends calls whose bodies stop half way, on one connection, until the call timeout ends them.
pub(super) async fn send_half_bodies(target: &Target, calls: usize) {
    let raw = target.raw().await;
    let mut tasks = JoinSet::new();
    for call in 0..calls {
        let raw = raw.clone();
        tasks.spawn(async move {
            let mut open = raw.begin(raw.grpc(MARK_READ, &reader())).await.unwrap();
            let mut body = valid_frame();
            // The last body is complete, but the stream is not ended.
            body.truncate(call % (body.len() + 1));
            open.body.send_data(body.into(), false).unwrap();
            let began = Instant::now();
            (open.answer().await.unwrap().refusal(), began.elapsed())
        });
    }
    for (denied, took) in tasks.join_all().await {
        assert_eq!(denied.code, Code::DeadlineExceeded, "{denied:?}");
        assert_eq!(denied.reason, "DEADLINE_EXCEEDED");
        assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_answered_at_the_call_timeout() {
    let target = Target::start().await;
    send_half_bodies(&target, 100).await;
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn the_prefix_of_a_second_message_is_invalid() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let body = [&valid_frame()[..], &valid_frame()[..5]].concat();
    let denied = raw.mark_read(READER, body).await.refusal();
    assert_invalid(&denied, "the prefix of a second message");
    target.assert_unharmed_after(0).await;
}
