//! The kinds of faults, and how each is injected and ended.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use crate::history::Loss;
use crate::world::{Mode, World};

mod clock;
mod cluster;
mod commands;
mod descriptors;
mod disk;
mod guards;
mod kinds;
mod network;
mod nodes;
mod processes;
mod receivers;
mod risk;
mod sentinel;
mod stores;

pub use self::kinds::KINDS;
pub use self::risk::Risk;

/// Why a fault could not be injected on this machine or in this mode: printed in the account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotRun(pub String);

/// The partitions whose Redis a fault concerned, or all where it is `None`.
pub type Reach = Option<Vec<usize>>;

/// A fault in progress, until its cause is gone.
pub type Injection<'a> = BoxFuture<'a, Result<Reach, NotRun>>;

/// A kind of fault.
pub struct Kind {
    /// Its name, as `--faults` takes it and the account prints it: `redis-killed`.
    pub name: &'static str,
    /// The modes in which it exists.
    pub modes: &'static [Mode],
    /// What it may lose.
    pub risk: Risk,
    /// What it does, in a line.
    pub does: &'static str,
    run: for<'a> fn(&'a mut World, &'a mut StdRng) -> Injection<'a>,
}

/// Injects a fault, waits as long as it is to last, and ends it: the cause is gone when this returns. What
/// may have been lost by it is returned; servers that were killed are started again.
pub async fn inject(
    kind: &Kind,
    world: &mut World,
    random: &mut StdRng,
) -> Result<Vec<Loss>, NotRun> {
    let from = world.now();
    let partitions = (kind.run)(world, random).await?;
    let losses = kind.risk.losses(world.mode(), world.durability());
    if world.mode() != Mode::Standalone && losses.contains(&false) {
        // The old master acknowledges, and loses that again, until it follows the new one.
        world.wait_until_whole().await;
    }
    let loss = |is_total| Loss { from, to: world.now(), partitions: partitions.clone(), is_total };
    Ok(losses.iter().map(|&is_total| loss(is_total)).collect())
}

/// A random time of so many milliseconds.
fn duration(random: &mut StdRng, ms: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.random_range(ms))
}

/// One of some values.
fn choose<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}
