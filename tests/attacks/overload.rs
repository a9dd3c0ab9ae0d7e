//! More marks than are served: at the peak, at three and at ten times as many, with a store or a server that has a
//! small, known share of a CPU, so that the machine can offer them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::caller::{Caller, Credentials};
use markread_harness::{MESSAGE, RECIPIENT};
use tokio::time::sleep;

use crate::case::{Case, case};
use crate::cgroup::CpuShare;
use crate::crowd::{Crowd, Figures, Pace};
use crate::process::anonymous_bytes;
use crate::stage::Stage;

/// Users in turn, so that none has many calls under way.
const USERS: u64 = 2000;

/// How long the peak is measured, with each number of calls at once, and each load.
const PEAK: Duration = Duration::from_millis(1200);
const LOAD: Duration = Duration::from_secs(5);

/// The pace after the load, and how long it is kept.
const AFTER_SHARE: f64 = 0.25;
const AFTER: Duration = Duration::from_millis(2500);

/// A call that takes longer is slow: after the load none is any more.
const SLOW_MS: f64 = 100.0;

/// The longest p99 of the accepted. They wait for a round trip and 30 ms; but a Redis with a twentieth of a CPU takes
/// 32 ms for what is under way alone, and the generator shares the machine. Without a bound it is the call timeout.
const P99_MAX_MS: f64 = 1000.0;

/// How soon everything is as before.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

/// The least share of the peak that is served under a load. The aim is 80 %, which the printed figures show on a quiet
/// machine; the peak itself is measured on a shared one, and a server that collapses serves far less than this.
const SERVED_MIN: f64 = 0.5;

/// A user of a client library, beside the crowd.
const CLIENT: u64 = 6_690_000_001;

/// A part of the run is this long where one looks at whether everything is as before.
const WINDOW: Duration = Duration::from_millis(100);

/// The cases, if this process may give others a share of a CPU.
pub(crate) fn cases(shares: [&Result<Arc<CpuShare>, String>; 2]) -> Vec<Case> {
    let [store, server] = shares;
    let flags = "--rate-limit 1000000000 --edge-rate 10000000 --edge-burst 10000000";
    let (Ok(store), Ok(server)) = (store, server) else { return Vec::new() };
    vec![
        case!("overload: more than the store serves", of_the_store)
            .redis_in(store)
            .flags(flags)
            .without_neighbour(),
        case!("overload: more than the server serves", of_the_server)
            .after(&server.enter())
            .keeping(Arc::clone(server))
            .flags(flags)
            .without_neighbour(),
    ]
}

async fn of_the_store(stage: Arc<Stage>) {
    run(&stage, 40, &[4, 16], Some(P99_MAX_MS)).await;
}

/// A server without CPU refuses nobody for that: its latency is that of all streams which are open.
async fn of_the_server(stage: Arc<Stage>) {
    run(&stage, 16, &[8, 32], None).await;
}

async fn run(stage: &Arc<Stage>, connections: usize, at_once: &[usize], p99_max_ms: Option<f64>) {
    let attack = async {
        let crowd = Crowd::new(stage.address(), connections, USERS);
        // The first calls connect, and bring the tokens into the cache.
        crowd.call(Pace::AtOnce(4), Duration::from_millis(500)).await;
        let mut peak = 0.0_f64;
        for &at_once in at_once {
            peak = peak.max(crowd.call(Pace::AtOnce(at_once), PEAK).await.per_second(true));
        }
        println!("    peak {peak:.0}/s");
        println!(
            "    {:>4} {:>9} {:>9} {:>9} {:>6} {:>9} {:>8} {:>8} {:>9} {:>8} {:>8}",
            "load",
            "offered",
            "sent/s",
            "served/s",
            "%",
            "refused/s",
            "p50 ms",
            "p99 ms",
            "refused p99",
            "RSS MiB",
            "back ms"
        );
        for times in [1.0, 3.0, 10.0] {
            one_load(stage, &crowd, peak, (times, p99_max_ms)).await;
        }
    };
    stage.attack(attack).await;
}

async fn one_load(
    stage: &Arc<Stage>,
    crowd: &Crowd,
    peak: f64,
    (times, p99_max_ms): (f64, Option<f64>),
) {
    let client = tokio::spawn(client(Arc::clone(stage), Instant::now() + LOAD));
    let mut during = crowd.call(Pace::PerSecond(times * peak), LOAD).await;
    let after = crowd.call(Pace::PerSecond(AFTER_SHARE * peak), AFTER).await;
    let (clients_served, clients_refused, without_delay) = client.await.unwrap();
    let rss = anonymous_bytes(stage.server.id()).unwrap_or_default() >> 20;
    during.answered.extend(&after.answered);
    let (served, refused) = (during.per_second(true), during.per_second(false));
    let [p50, p99] = [0.5, 0.99].map(|share| during.quantile_ms(true, share));
    let refused_p99 = during.quantile_ms(false, 0.99);
    let back = recovery(&after);
    let share = served / peak;
    let sent = times * peak - during.held_back as f64 / during.lasted.as_secs_f64();
    println!(
        "    {times:>3}x {:>9.0} {sent:>9.0} {served:>9.0} {:>6.0} {refused:>9.0} {p50:>8.1} \
         {p99:>8.1} {refused_p99:>9.1} {rss:>8} {:>8}",
        times * peak,
        100.0 * share,
        back.map_or("never".to_owned(), |back| back.as_millis().to_string()),
    );
    let name = format!("at {times} times the peak");
    if times > 1.0 {
        let what = format!("{name} half of the peak is served, got {:.0} %", 100.0 * share);
        stage.check(share >= SERVED_MIN, what);
        let holds = p99_max_ms.is_none_or(|most| p99 <= most);
        stage.check(holds, format!("{name} p99 is bounded ({p99_max_ms:?} ms), got {p99:.1}"));
        let refusals = clients_served + clients_refused > 0 && without_delay == 0;
        stage.check(
            refusals,
            format!(
                "a client library knows when to retry {name}: {clients_served} served, \
                 {clients_refused} refused, {without_delay} without RetryInfo"
            ),
        );
    }
    let in_time = back.is_some_and(|back| back <= RECOVERY_MAX);
    let in_time = in_time || p99_max_ms.is_none();
    stage.check(in_time, format!("everything is as before soon after {name}, got {back:?}"));
}

/// When everything was as before: the begin of the first window after which nothing is refused or slow.
fn recovery(after: &Figures) -> Option<Duration> {
    let is_bad = |call: &&crate::crowd::Answered| {
        call.sent >= after.began && (!call.served || call.took.as_secs_f64() * 1000.0 > SLOW_MS)
    };
    let windows = (AFTER.as_millis() / WINDOW.as_millis()) as usize;
    let (mut bad, mut all) = (vec![0_usize; windows + 1], vec![0_usize; windows + 1]);
    for call in after.answered.iter().filter(|call| call.sent >= after.began) {
        let window = ((call.sent - after.began).as_millis() / WINDOW.as_millis()) as usize;
        let window = window.min(windows);
        all[window] += 1;
        bad[window] += usize::from(is_bad(&call));
    }
    let last_bad = bad.iter().zip(&all).rposition(|(bad, all)| *bad * 100 > *all);
    let back = WINDOW * last_bad.map_or(0, |window| window as u32 + 1);
    (back < AFTER).then_some(back)
}

/// Marks with a client library until then. Returns how many were served and refused, and how many of the
/// refusals do not say when to retry.
async fn client(stage: Arc<Stage>, until: Instant) -> (usize, usize, usize) {
    let (mut served, mut refused, mut without_delay) = (0, 0, 0);
    let mut message = MESSAGE;
    let caller = Caller::new(stage.server.channel(), Credentials::token_of(CLIENT));
    while Instant::now() < until {
        message += 1;
        match caller.mark(RECIPIENT, message).await {
            Ok(_) => served += 1,
            Err(refusal) => {
                refused += 1;
                let delay = refusal.details.retry_info().and_then(|info| info.retry_delay);
                without_delay += usize::from(delay.is_none());
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    (served, refused, without_delay)
}
