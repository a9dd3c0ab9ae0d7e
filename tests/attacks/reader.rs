//! What one reader does at once.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::caller::{Caller, Credentials};
use markread_harness::{MESSAGE, RECIPIENT};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::calls::{ATTACKER, page, states};
use crate::case::{Case, case};
use crate::http2::{Connection, Reading};
use crate::stage::{Stage, until};

const WINDOW: u32 = 65_535;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("reader: 5,000 pages at once", pages).flags("--rate-limit 100000"),
        case!("reader: 1,500 marks at once", marks),
        case!("reader: denied reads", denied_reads).flags("--read-rate-limit 10"),
    ]
}

/// One reader asks for 5,000 pages of 1,000 cursors at once. Bound: two pages of a reader are under
/// way, the others wait behind it alone.
async fn pages(stage: Arc<Stage>) {
    let caller = stage.server.caller(ATTACKER);
    let recipients: Vec<u64> = (1..=5000).collect();
    for recipients in recipients.chunks(500) {
        let marks: Vec<_> = recipients.iter().map(|&recipient| (recipient, MESSAGE)).collect();
        caller.mark_batch(&marks).await.unwrap();
    }
    let page = page(ATTACKER, 1000);
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut one = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            let _ = one.begin(250, |stream| page.complete(stream)).await;
            held.push(one);
        }
        sleep(Duration::from_secs(3)).await;
        held
    };
    stage.attack(attack).await;
}

/// One reader marks 1,500 times at once. Its calls wait for each other and take no quota while they do:
/// 1,000 are served, the others are over the quota. Who is told to come again in a moment does.
async fn marks(stage: Arc<Stage>) {
    let attack = async {
        let channels: Vec<Channel> = (0..10).map(|_| stage.server.channel()).collect();
        let mut calls = JoinSet::new();
        for nth in 0..1500 {
            let channel = channels[nth % channels.len()].clone();
            let caller = Caller::new(channel, Credentials::token_of(ATTACKER));
            calls.spawn(settle(caller, RECIPIENT + nth as u64));
        }
        let outcomes = calls.join_all().await;
        // The neighbour's p50 is that of two seconds, not of the moment itself.
        sleep(Duration::from_secs(2)).await;
        let count = |wanted: &str| outcomes.iter().filter(|(outcome, _)| outcome == wanted).count();
        let again: usize = outcomes.iter().map(|(_, again)| again).sum();
        let (served, limited) = (count("OK"), count("RATE_LIMIT_EXCEEDED"));
        stage.check(
            (served, limited) == (1000, 500),
            format!("1000 are served, 500 are over quota: {served}, {limited}, {again} came again"),
        );
    };
    stage.attack(attack).await;
}

/// Marks until it is served or refused for good. Returns how, and how often it was told to come again.
async fn settle(caller: Caller, recipient: u64) -> (String, usize) {
    let mut again = 0;
    loop {
        let Err(refusal) = caller.mark(recipient, MESSAGE).await else {
            return ("OK".to_owned(), again);
        };
        if refusal.reason != "CONCURRENCY_LIMIT_EXCEEDED" {
            return (refusal.reason, again);
        }
        again += 1;
        let delay = refusal.details.retry_info().and_then(|info| info.retry_delay);
        sleep(delay.expect("it says when")).await;
    }
}

/// A reader over its quota of reads asks for 500 states, again and again. Bound: a denial is remembered
/// by the server and costs Redis nothing.
async fn denied_reads(stage: Arc<Stage>) {
    let states = states(ATTACKER);
    let attack = async {
        // Past the quota, and past what waits for its first denial.
        let mut first = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
        for _ in 0..20 {
            first.begin(1, |stream| states.complete(stream)).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        let scripts = async || stage.redis.calls("evalsha").await as usize;
        let before = (scripts().await, stage.neighbours_marks());
        let (mut floods, until) = (JoinSet::new(), until(Duration::from_secs(3)));
        for _ in 0..4 {
            let mut one = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            let states = states.clone();
            floods.spawn(async move {
                one.flood(&states, 50, until).await;
                one.seen.done()
            });
        }
        let denied: usize = floods.join_all().await.iter().sum();
        let calls = scripts().await - before.0;
        let theirs = stage.neighbours_marks() - before.1;
        stage.check(denied > 1000, format!("reads are denied: {denied}"));
        stage.check(
            calls <= theirs + 50,
            format!("no script is called for them: {calls} calls, {theirs} marks of others"),
        );
    };
    stage.attack(attack).await;
}
