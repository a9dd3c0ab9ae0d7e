//! Calls of one peer past `--edge-rate`.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::{MESSAGE, RECIPIENT};

use crate::calls::{ATTACKER, mark};
use crate::case::{Case, case};
use crate::http2::{Call, Connection, Reading, connect_from};
use crate::process::cpu_seconds;
use crate::stage::{Stage, until};

/// Calls of each kind.
const CALLS: usize = 30_000;

const ROUNDS: usize = 3;

/// What a refusal may cost more than an unauthenticated call: what two runs of one differ by.
const TOLERANCE: f64 = 1.1;

pub(crate) fn cases() -> Vec<Case> {
    // The guard lets the first calls of a peer pass, and no more while this runs.
    let flags = format!("--edge-rate 1 --edge-burst {CALLS} --rate-limit 1000000");
    vec![case!("guard: CPU of a refusal", refusals).flags(&flags).without_neighbour()]
}

/// A peer's unauthenticated calls before and after its rate is used up: a refusal must cost the server
/// no more CPU than the call it saves. A served call, of another peer, is told beside them.
async fn refusals(stage: Arc<Stage>) {
    let (anonymous, served) = (mark(None, RECIPIENT, 1), mark(Some(ATTACKER), RECIPIENT, MESSAGE));
    let attack = async {
        let passed = cpu_micros(&stage, "127.0.0.2:0", &anonymous).await;
        let refused = cpu_micros(&stage, "127.0.0.2:0", &anonymous).await;
        let served = cpu_micros(&stage, "127.0.0.3:0", &served).await;
        stage.check(
            refused <= TOLERANCE * passed,
            format!(
                "a refusal costs no more than an unauthenticated call: {refused:.1} µs of CPU, \
                 {passed:.1} unauthenticated, {served:.1} served"
            ),
        );
        let limited = stage.server.metric("markread_edge_limited_total").await;
        let limited = limited.unwrap_or_default() as usize;
        let expected = CALLS - CALLS / 20..=CALLS + CALLS / 20;
        stage.check(expected.contains(&limited), format!("half was refused: {limited}"));
    };
    stage.attack(attack).await;
}

/// The server's CPU for one of these calls, in the best of some rounds: everything else only adds.
async fn cpu_micros(stage: &Stage, own: &str, call: &Call) -> f64 {
    let stream = connect_from(own, stage.address()).await.unwrap();
    let mut one = Connection::open_on(stream, 65_535, Reading::All).await.unwrap();
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = (cpu_seconds(stage.server.id()), one.seen.done());
        one.flood_up_to(CALLS / ROUNDS, call, 200, until(Duration::from_secs(2))).await;
        let seconds = cpu_seconds(stage.server.id()) - before.0;
        let calls = one.seen.done() - before.1;
        stage.check(calls == CALLS / ROUNDS, "all calls are answered");
        least = least.min(1e6 * seconds / calls as f64);
    }
    least
}
