//! Order and retries: a conversation's events arrive in order, and hold up no other's.

use std::time::{Duration, Instant};

use markread_harness::events::{payload, publish};
use markread_harness::receiver::Reply;
use markread_harness::{Receiver, Redis, Relay, WebhookFile};
use tokio::time::sleep;

use super::{ALL, QUIET, SOON, pending, wait_until_done};

const CONVERSATIONS: u64 = 40;

/// Events of many conversations, of all by turns.
fn by_turns(conversations: u64, each: u64) -> Vec<String> {
    (1..=each)
        .flat_map(|message| {
            (1..=conversations).map(move |reader| payload(reader, 1_000 + reader % 7, message))
        })
        .collect()
}

/// Whether an attempt is to fail: half of them, by reader, message and attempt. Mixed well (as in
/// splitmix64), so that those of different conversations do not fail together, which opens the circuit.
pub(super) fn is_to_fail(reader: u64, message: u64, nth: u32) -> bool {
    let mut mixed = reader << 32 ^ message << 8 ^ u64::from(nth);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ mixed >> 30).wrapping_mul(factor);
    }
    mixed >> 63 == 1
}

#[tokio::test]
async fn conversations_stay_in_order_while_half_of_it_fails() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|arrival| {
        let fails =
            arrival.nth < 2 && is_to_fail(arrival.lane.reader, arrival.message, arrival.nth);
        let statuses = [500, 403, 302, 199 + 204];
        Reply::Status(if fails { statuses[arrival.message as usize % 4] } else { 204 })
    });
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &by_turns(CONVERSATIONS, 8)).await;
    receiver.wait_for(CONVERSATIONS as usize * 8, Duration::from_secs(60)).await;
    wait_until_done(&redis, "main").await;
    assert_eq!(receiver.assert_in_order(), 0, "nothing arrives twice");
    assert_eq!(receiver.overlaps(), 0, "one at a time of each conversation");
    assert!(receiver.attempts() > CONVERSATIONS as usize * 8 * 4 / 3, "half of them fail");
}

#[tokio::test]
async fn a_conversation_that_fails_holds_up_no_other() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|arrival| Reply::Status(if arrival.lane.reader == 1 { 500 } else { 200 }));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &by_turns(CONVERSATIONS, 10)).await;
    let began = Instant::now();
    let others = CONVERSATIONS as usize - 1;
    receiver.wait_for(others * 10, SOON).await;
    println!("{} events of others in {:?}", others * 10, began.elapsed());
    let of_first = |receiver: &Receiver| {
        let arrivals = receiver.arrivals().into_iter();
        arrivals.filter(|arrival| arrival.lane.reader == 1).collect::<Vec<_>>()
    };
    assert!(of_first(&receiver).iter().all(|arrival| arrival.message == 1), "in order");
    sleep(QUIET).await;
    assert!(pending(&redis, "main").await >= 10, "what was not delivered is pending");

    receiver.answer(Reply::Status(200));
    receiver.wait_for(others * 10 + 10, Duration::from_secs(30)).await;
    wait_until_done(&redis, "main").await;
    assert_eq!(receiver.assert_in_order(), 0);
    // The pauses between attempts grow.
    let failed: Vec<_> =
        of_first(&receiver).iter().filter(|at| at.message == 1).map(|at| at.at).collect();
    let pauses: Vec<_> = failed.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses[0] >= Duration::from_millis(70), "{pauses:?}");
    assert!(pauses.last() > pauses.first(), "{pauses:?}");
}

/// `retry-after`, and the statuses that mean "less".
#[tokio::test]
async fn a_receiver_that_asks_to_wait_is_left_alone_meanwhile() {
    for (status, header) in [
        (429, Some("retry-after: 3")),
        (503, Some("retry-after: 3")),
        (429, None),
        (502, None),
        (504, None),
    ] {
        let redis = Redis::start().await;
        let receiver = Receiver::start().await;
        let began = Instant::now();
        receiver.answer_by(move |arrival| {
            if arrival.nth == 0 && arrival.message == 1 {
                Reply::With(status, header.map(str::to_owned).into_iter().collect(), Vec::new())
            } else {
                Reply::Status(200)
            }
        });
        let file = WebhookFile::of(&[("main", &receiver, ALL)]);
        let relay = Relay::on(&redis, &file).await;
        publish(&redis, &[payload(1, 2, 1)]).await;
        let first = receiver.wait_for_attempts(1, SOON).await.remove(0).at;
        sleep(Duration::from_millis(200)).await;
        // Of other conversations: the whole webhook is slowed down.
        publish(&redis, &(10..30).map(|reader| payload(reader, 2, 2)).collect::<Vec<_>>()).await;
        let arrivals = receiver.wait_for(21, SOON).await;
        let pause = arrivals[1].at - first;
        let least = Duration::from_millis(if header.is_some() { 2_900 } else { 400 });
        assert!(pause >= least, "{status} {header:?}: {pause:?} after {:?}", began.elapsed());
        assert!(pause < Duration::from_secs(10), "{status} {header:?}: {pause:?}");
        if status != 503 {
            let throttled =
                relay.metric("markread_relay_attempts_total", &["outcome=\"throttled\""]);
            assert_eq!(throttled.await, 1.0, "{status}");
        }
    }
}

/// All fail for a while: the circuit breaker leaves the receiver alone but for probes.
#[tokio::test]
async fn a_receiver_that_fails_is_not_overrun() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    receiver.answer(Reply::Status(500));
    publish(&redis, &by_turns(200, 5)).await;
    // Each of 200 conversations is attempted after 0.1, 0.3, 0.7, 1.7 and 3.7 s, until nothing has succeeded for 5 s.
    markread_harness::eventually("the circuit is open", Duration::from_secs(15), async || {
        let open = relay.metric("markread_relay_circuit_open", &["webhook=\"main\""]).await;
        (open > 0.5).then_some(())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    let before = receiver.attempts();
    assert!(before < 1_600, "{before} attempts until the circuit was open");
    sleep(Duration::from_secs(3)).await;
    let probes = receiver.attempts() - before;
    assert!(probes <= 40, "{probes} attempts in 3 s while the circuit is open");
    receiver.answer(Reply::Status(200));
    let mended = Instant::now();
    receiver.wait_for(1_001, Duration::from_secs(45)).await;
    println!("1,000 events within {:?} of the end of the outage", mended.elapsed());
    assert_eq!(relay.metric("markread_relay_circuit_open", &[]).await, 0.0);
    assert_eq!(receiver.assert_in_order(), 0);
}
