//! The time from a mark to its receipt, at a steady pace.

use std::time::Duration;

use markread_harness::{Redis, Relay, Server, WebhookFile};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::receiver::{Process, now_us};

/// Marks a second.
const PACE: u64 = 1_000;

/// Time in which connections are made and code is loaded.
const WARM_UP_S: u64 = 2;

/// Conversations of the marks.
const CONVERSATIONS: u64 = 1_000;

const READERS: u64 = 8;

/// Marks for so many seconds, and prints the delays.
pub(crate) async fn measure(seconds: u64) {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000000"]).await;
    let receiver = Process::start().await;
    let file = WebhookFile::new("");
    file.write(&file.entry("main", &receiver.url(), "users = \"all\""));
    let relay = Relay::on(&redis, &file).await;
    sleep(Duration::from_secs(2)).await;
    let callers: Vec<_> = (1..=READERS).map(|reader| server.caller(reader)).collect();
    let mut pace = interval(Duration::from_micros(1_000_000 / PACE));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let marks = PACE * (seconds + WARM_UP_S);
    let mut calls = JoinSet::new();
    let (before, began) = (crate::process::cpu_seconds(relay.id()), now_us());
    for mark in 0..marks {
        pace.tick().await;
        let caller = callers[(mark % READERS) as usize].clone();
        calls.spawn(async move {
            // The message is the time, so that the receiver can tell the delay.
            caller.mark(1 + mark % CONVERSATIONS, now_us()).await.unwrap();
        });
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
    let took_s = (now_us() - began) as f64 / 1e6;
    let stats = receiver.wait_for(marks, Duration::from_secs(30)).await;
    let mut delays = stats.delays[(PACE * WARM_UP_S) as usize..].to_vec();
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!(
        "\nFrom the call of a mark to the receipt, {:.0} marks/s for {seconds} s: median {:.2} ms, \
         p99 {:.2} ms, p99.9 {:.2} ms; {:.0} % of a CPU",
        marks as f64 / took_s,
        at(0.5),
        at(0.99),
        at(0.999),
        (crate::process::cpu_seconds(relay.id()) - before) / took_s * 100.0,
    );
}
