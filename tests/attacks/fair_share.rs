//! A reader who does nothing but what is expensive, beside nine who mark as fast as they can: those must have nearly
//! as much as beside a tenth who marks like them.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::MESSAGE;
use tokio::task::JoinSet;

use crate::calls::{ATTACKER, page, states, watch};
use crate::case::{Case, case};
use crate::cgroup::CpuShare;
use crate::crowd::{Crowd, Pace};
use crate::http2::{Call, Connection, Reading};
use crate::stage::{Stage, until};

/// Conversations of the expensive reader.
const CONVERSATIONS: u64 = 100_000;

/// Calls at once of each reader, as many as may be under way.
const AT_ONCE: usize = 30;

const MEASURED: Duration = Duration::from_secs(3);

/// The least share that the nine keep of what they have beside a tenth like them. The aim is 80 %; the generators share
/// the machine with what they measure.
const KEPT_MIN: f64 = 0.6;

/// The cases, if this process may give others a share of a CPU.
pub(crate) fn cases(shares: [&Result<Arc<CpuShare>, String>; 2]) -> Vec<Case> {
    let flags = "--rate-limit 1000000000 --read-rate-limit 1000000000 --edge-rate 10000000 \
                 --edge-burst 10000000";
    let (Ok(store), Ok(server)) = (shares[0], shares[1]) else { return Vec::new() };
    vec![
        case!("fair share: of the store", expensive_reader)
            .redis_in(store)
            .flags(flags)
            .without_neighbour(),
        case!("fair share: of the server", expensive_reader)
            .after(&server.enter())
            .keeping(Arc::clone(server))
            .flags(flags)
            .without_neighbour(),
    ]
}

async fn expensive_reader(stage: Arc<Stage>) {
    let caller = stage.server.caller(ATTACKER);
    for first in (1..=CONVERSATIONS).step_by(500) {
        let marks: Vec<_> = (first..first + 500).map(|recipient| (recipient, MESSAGE)).collect();
        caller.mark_batch(&marks).await.unwrap();
    }
    let attack = async {
        let ten = marks_of(&stage, 10).await;
        let alone = ten * 0.9;
        for (what, call) in [("pages", page(ATTACKER, 1000)), ("states", states(ATTACKER))] {
            let expensive = tokio::spawn(ask(Arc::clone(&stage), call));
            let kept = marks_of(&stage, 9).await / alone;
            let asked = expensive.await.unwrap() as f64 / MEASURED.as_secs_f64();
            stage.check(
                kept >= KEPT_MIN,
                format!(
                    "nine keep 60 % beside one who asks for {what}: {:.0} % of {alone:.0} marks/s, \
                     {asked:.0} {what} a second",
                    100.0 * kept
                ),
            );
        }
        let mut watches = Connection::open(stage.address(), 65_535, Reading::All).await.unwrap();
        let open = watch(ATTACKER, "0-0");
        watches.begin(64, |stream| open.complete(stream)).await.unwrap();
        let kept = marks_of(&stage, 9).await / alone;
        let what = format!("nine keep 60 % beside one with 64 watches: {:.0} %", 100.0 * kept);
        stage.check(kept >= KEPT_MIN, what);
    };
    stage.attack(attack).await;
}

/// Marks a second of so many readers.
async fn marks_of(stage: &Arc<Stage>, readers: u64) -> f64 {
    let crowd = Crowd::new(stage.address(), readers as usize, readers);
    crowd.call(Pace::AtOnce(AT_ONCE), MEASURED / 4).await;
    crowd.call(Pace::AtOnce(AT_ONCE), MEASURED).await.per_second(true)
}

/// Makes as many of these calls at once as may be under way, as long as the others are measured. Returns how
/// many were answered.
async fn ask(stage: Arc<Stage>, call: Call) -> usize {
    let (mut floods, until) = (JoinSet::new(), until(MEASURED + MEASURED / 4));
    for _ in 0..2 {
        let mut one = Connection::open(stage.address(), 0x7fff_ffff, Reading::All).await.unwrap();
        let call = call.clone();
        floods.spawn(async move {
            one.flood(&call, AT_ONCE / 2, until).await;
            one.seen.done()
        });
    }
    floods.join_all().await.iter().sum()
}
