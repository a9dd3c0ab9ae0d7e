//! All attacks at once, beside a well-behaved client.

use std::sync::Arc;

use markread_harness::raw::MARK_READ;
use markread_harness::{READER, RECIPIENT};
use tokio::task::JoinSet;
use tonic::Code;

use super::bodies::send_half_bodies;
use super::connections::{client_hello, random_bytes, reset_rapidly};
use super::frames::broken_connections;
use super::{Target, reader, until_closed};

/// Marks of the well-behaved client.
const MARKS: u64 = 300;

/// Opens broken connections, one after another.
async fn break_connections(target: &Target) {
    let broken = broken_connections().into_iter().map(|(_, bytes)| bytes);
    let random = (100..130).map(random_bytes);
    for bytes in broken.chain(random).chain([client_hello()]) {
        until_closed(&target.server.address, &bytes).await;
    }
}

/// Makes calls that are refused for their metadata, their protobuf or their size.
async fn send_refused(target: &Target) {
    for round in 0..50 {
        let raw = target.raw().await;
        let large = raw.grpc(MARK_READ, &reader()).header("x-large", "x".repeat(20 * 1024));
        if let Ok(answer) = raw.send(large, "").await {
            assert_eq!(answer.status, 431);
        }
        let raw = target.raw().await;
        let denied = raw.mark_read(READER, random_bytes(round)).await.refusal();
        let refused = [Code::InvalidArgument, Code::ResourceExhausted].contains(&denied.code);
        assert!(refused, "{denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_well_behaved_client_is_served_through_it_all() {
    let target = Arc::new(Target::start().await);
    let mut attacks = JoinSet::new();
    for _ in 0..2 {
        let target = [(); 4].map(|()| Arc::clone(&target));
        let [broken, refused, half, resets] = target;
        attacks.spawn(async move { break_connections(&broken).await });
        attacks.spawn(async move { send_refused(&refused).await });
        attacks.spawn(async move { send_half_bodies(&half, 60).await });
        attacks.spawn(async move { reset_rapidly(&resets, 2000).await });
    }
    let caller = target.server.caller(READER);
    for message in 1..=MARKS {
        let answer = caller.mark(RECIPIENT, message).await.expect("the valid mark is served");
        assert!(answer.advanced);
    }
    attacks.join_all().await;
    target.assert_unharmed_after(MARKS).await;
    assert_eq!(target.redis.payloads().await.len(), usize::try_from(MARKS).unwrap() + 1);
}
