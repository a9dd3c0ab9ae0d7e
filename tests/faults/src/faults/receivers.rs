//! Receivers of webhooks that fail.

use markread_harness::receiver::Reply;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{NotRun, Reach, choose, duration};
use crate::world::World;

/// How a receiver fails.
#[derive(Clone, Copy)]
enum Failure {
    /// Its port is closed.
    Refuses,
    /// It takes a delivery, and does not answer.
    Hangs,
    /// It closes the connection in place of an answer.
    Closes,
    /// It answers with this status.
    Answers(u16),
}

/// A receiver fails in one way for 2 s.
pub(super) async fn down(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let receiver = &world.receivers[random.random_range(0..world.receivers.len())];
    let failures = [
        Failure::Refuses,
        Failure::Hangs,
        Failure::Closes,
        Failure::Answers(500),
        Failure::Answers(503),
    ];
    let failure = choose(random, &failures);
    match failure {
        Failure::Refuses => receiver.go_down().await,
        Failure::Hangs => receiver.answer(Reply::Hang),
        Failure::Closes => receiver.answer(Reply::Close),
        Failure::Answers(status) => receiver.answer(Reply::Status(status)),
    }
    sleep(duration(random, 1500..=2500)).await;
    match failure {
        Failure::Refuses => receiver.come_up().await,
        _ => receiver.answer(Reply::Status(200)),
    }
    Ok(None)
}
