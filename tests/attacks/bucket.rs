//! Recipients that are picked to share a bucket.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::MESSAGE;
use tokio::task::JoinSet;

use crate::calls::{ATTACKER, page};
use crate::case::{Case, case};
use crate::http2::{Connection, Reading};
use crate::stage::{Stage, until};

/// Recipients this far apart were in one bucket of version 1.
const STEP: u64 = 2_147_483_647;

const RECIPIENTS: u64 = 20_000;

pub(crate) fn cases() -> Vec<Case> {
    let flags = "--rate-limit 1000000 --read-rate-limit 1000000";
    vec![
        case!("bucket: picked recipients", picked).flags(flags),
        case!("bucket: arbitrary recipients", arbitrary).flags(flags),
    ]
}

/// One reader with 20,000 picked recipients reads pages of one cursor, four at once. Bound: the
/// placement has a key that nobody knows, and a page reads no more of a bucket than it needs.
async fn picked(stage: Arc<Stage>) {
    read_pages(stage, |nth| 1 + nth * STEP).await;
}

/// The twin, which must not be slower for others.
async fn arbitrary(stage: Arc<Stage>) {
    read_pages(stage, |nth| 1 + nth * 7_919_003).await;
}

async fn read_pages(stage: Arc<Stage>, recipient: fn(u64) -> u64) {
    let caller = stage.server.caller(ATTACKER);
    let recipients: Vec<u64> = (0..RECIPIENTS).map(recipient).collect();
    for recipients in recipients.chunks(250) {
        let marks: Vec<_> = recipients.iter().map(|&recipient| (recipient, MESSAGE)).collect();
        caller.mark_batch(&marks).await.unwrap();
    }
    let page = page(ATTACKER, 1);
    let attack = async {
        let (mut loops, until) = (JoinSet::new(), until(Duration::from_secs(3)));
        for _ in 0..4 {
            let window = 65_535;
            let mut one = Connection::open(stage.address(), window, Reading::All).await.unwrap();
            let page = page.clone();
            loops.spawn(async move {
                one.flood(&page, 1, until).await;
                one.seen.done()
            });
        }
        let pages: usize = loops.join_all().await.iter().sum();
        stage.check(pages > 0, format!("pages are served: {pages}"));
    };
    stage.attack(attack).await;
}
