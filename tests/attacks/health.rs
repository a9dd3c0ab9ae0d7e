//! Health checks, which need no credentials.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::calls::{HEALTH_CHECK, HEALTH_WATCH, health};
use crate::case::{Case, case};
use crate::http2::{Connection, DATA, Reading};
use crate::stage::{Stage, until};

const WINDOW: u32 = 65_535;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("health: watches", watches),
        case!("health: half-sent checks", half_sent),
        case!("health: checks", checks),
    ]
}

/// Ten connections open 250 watches each of one service. Bound: one watch of a service and connection
/// is kept, the others are UNIMPLEMENTED, which clients read as "no health checking". The twin watches
/// both services.
async fn watches(stage: Arc<Stage>) {
    const OPENED: usize = 250;
    let [all, service] = ["", "markread.v1.MarkReadService"].map(|name| health(HEALTH_WATCH, name));
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut one = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            let _ = one.begin(OPENED, |stream| all.complete(stream)).await;
            held.push(one);
        }
        let mut twin = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
        twin.begin(1, |stream| all.complete(stream)).await.unwrap();
        twin.begin(1, |stream| service.complete(stream)).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let open: usize = held.iter().map(|one| OPENED - one.seen.done()).sum();
        stage.check(open == held.len(), format!("of 2500 watches 10 are kept: {open} were"));
        let answered = twin.seen.count(DATA);
        let kept = answered == 2 && twin.seen.done() == 0;
        stage.check(kept, "a watch of each service is answered and kept");
    };
    stage.attack(attack).await;
}

/// Ten connections begin 200 checks each and send no message. Bound: 8 half-sent requests of a
/// connection.
async fn half_sent(stage: Arc<Stage>) {
    const OPENED: usize = 200;
    let check = health(HEALTH_CHECK, "");
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut one = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            let _ = one.begin(OPENED, |stream| check.head(stream)).await;
            held.push(one);
        }
        // Less than the call timeout, which ends them all.
        sleep(Duration::from_secs(1)).await;
        let open = held.iter().filter(|one| !one.seen.is_cut());
        let open: usize = open.map(|one| OPENED - one.seen.done()).sum();
        stage.check(open <= 80, format!("of 2000 half-sent requests 80 stay: {open} did"));
    };
    stage.attack(attack).await;
}

/// Eight connections check the health as fast as they are answered, from one peer. Bound: the guard of
/// Health/Check.
async fn checks(stage: Arc<Stage>) {
    const LASTS: Duration = Duration::from_secs(3);
    const OK_PER_SECOND: usize = 5000;
    let check = health(HEALTH_CHECK, "");
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for _ in 0..8 {
            let mut one = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            let check = check.clone();
            floods.spawn(async move {
                one.flood(&check, 100, until).await;
                (one.seen.count(DATA), one.seen.done())
            });
        }
        let counts = floods.join_all().await;
        let per_second = |count: usize| count / LASTS.as_secs() as usize;
        let ok = per_second(counts.iter().map(|(ok, _)| ok).sum());
        let all = per_second(counts.iter().map(|(_, all)| all).sum());
        stage.check(
            ok <= OK_PER_SECOND,
            format!("at most {OK_PER_SECOND} checks a second are served: {ok} of {all}"),
        );
    };
    stage.attack(attack).await;
}
