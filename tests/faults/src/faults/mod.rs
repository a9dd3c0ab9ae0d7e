//! The kinds of faults, and how each is injected and ended.

use rand::rngs::StdRng;

use crate::history::Loss;
use crate::world::{Mode, World};

/// Why a fault could not be injected on this machine or in this mode: printed in the account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotRun(pub String);

/// A kind of fault.
pub struct Kind {
    /// Its name, as `--faults` takes it and the account prints it: `redis-killed`.
    pub name: &'static str,
    /// The modes in which it exists.
    pub modes: &'static [Mode],
}

/// All kinds.
pub const KINDS: &[Kind] = &[];

/// Injects a fault, waits as long as it is to last, and ends it: the cause is gone when this returns. What
/// may have been lost by it is returned; servers that were killed are started again.
pub async fn inject(
    kind: &Kind,
    world: &mut World,
    random: &mut StdRng,
) -> Result<Vec<Loss>, NotRun> {
    let _ = (world, random);
    Err(NotRun(format!("{} is not known", kind.name)))
}
