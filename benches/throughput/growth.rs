//! Whether a call costs more when more is stored.

use std::fmt::Write;
use std::sync::Arc;

use markread_harness::{Redis, Server};

use crate::Options;
use crate::bound::Bound;
use crate::figures::median;
use crate::load::{Calls, Concurrency, Until, run};
use crate::process::cpu_seconds;
use crate::report::thousands;
use crate::rounds::UNLIMITED;
use crate::workloads::{FIRST_READER, Population};

/// Readers that make the calls: few where each has 100,000 conversations, and more than calls at
/// once where each has few.
const READERS: u64 = 10;
const MANY_READERS: u64 = 500;

/// Each call has up to 500 marks, which may split buckets: more at once would wait too long.
const SEEDING: Concurrency = Concurrency { connections: 2, at_once: 2 };

const FEW_ENTRIES: u64 = 1000;
const MANY_ENTRIES: u64 = 1_000_000;

/// The figures for one amount of stored data.
struct Case<'a> {
    amount: u64,
    server: &'a Server,
    calls: Arc<Calls>,
    per_second: Vec<f64>,
    redis_us: Vec<f64>,
}

/// Makes populations with different readers.
struct Populations(u64);

impl Populations {
    fn next(&mut self, readers: u64, conversations: u64) -> Population {
        let first_reader = self.0;
        self.0 += readers;
        Population { first_reader, readers, conversations }
    }
}

pub(crate) async fn measure(options: &Options) -> String {
    let mut redis = Redis::start().await;
    let threads = ["--worker-threads", &options.worker_threads];
    let server = async |stream: &str, entries: u64| {
        let entries = entries.to_string();
        let stream = ["--stream", stream, "--stream-maxlen", &entries];
        Server::on_with(&redis, &[&threads[..], &UNLIMITED, &stream].concat()).await
    };
    let (short, long) = (server("short", FEW_ENTRIES).await, server("long", MANY_ENTRIES).await);

    let mut next = Populations(FIRST_READER);
    let (few, many) = (next.next(MANY_READERS, 2), next.next(20_000, 50));
    seed(&short, few).await;
    // Each of its cursors is an event.
    seed(&long, many).await;
    let length: u64 = redis.run("XLEN long").await;
    assert!(length >= MANY_ENTRIES * 99 / 100, "{length} entries");
    let case = |amount, server, calls| {
        let (per_second, redis_us) = Default::default();
        Case { amount, server, calls, per_second, redis_us }
    };
    let mut conversations = Vec::new();
    for amount in [10, 64, 128, 256, 1000, 100_000] {
        let population = next.next(READERS, amount);
        seed(&short, population).await;
        conversations.push(case(amount, &short, population.advancing(READERS)));
    }
    let cursors = [few, many]
        .map(|population| case(population.cursors(), &short, population.advancing(MANY_READERS)));
    // The same marks for both, which rise from one to the other.
    let readers = next.next(MANY_READERS, 2);
    seed(&short, readers).await;
    let marks = readers.advancing(MANY_READERS);
    let entries = [(FEW_ENTRIES, &short), (MANY_ENTRIES, &long)]
        .map(|(amount, server)| case(amount, server, Arc::clone(&marks)));

    let mut families = [
        ("conversations of a reader", conversations),
        ("cursors in all", cursors.into()),
        ("entries of the stream", entries.into()),
    ];
    for round in 0..=options.rounds {
        println!("growth: round {round} of {}", options.rounds);
        for case in families.iter_mut().flat_map(|(_, cases)| cases) {
            let lasts = Until::Elapsed(options.lasts / 2);
            let before = cpu_seconds(redis.id());
            let came_to = run(&case.server.address, &case.calls, options.saturate(), lasts).await;
            let spent = cpu_seconds(redis.id()) - before;
            // The first round is to warm up.
            if round > 0 {
                case.per_second.push(came_to.per_second());
                case.redis_us.push(spent * 1e6 / came_to.calls as f64);
            }
        }
    }
    expect_advances(&[&short, &long]).await;
    redis.kill().await;
    text(&families)
}

/// Asserts that nearly all marks advanced: with few readers and conversations, a mark may overtake
/// another.
async fn expect_advances(servers: &[&Server]) {
    let (mut advanced, mut unchanged) = (0.0, 0.0);
    for server in servers {
        let count = async |outcome| {
            let name = format!("markread_mark_read_total{{outcome=\"{outcome}\"}}");
            server.metric(&name).await.unwrap()
        };
        advanced += count("advanced").await;
        unchanged += count("noop").await;
    }
    assert!(
        unchanged < advanced / 20.0,
        "{unchanged} no-ops beside {advanced} marks that advanced"
    );
}

/// Sets each cursor of a population.
pub(crate) async fn seed(server: &Server, population: Population) {
    let (calls, number) = population.seed();
    run(&server.address, &calls, SEEDING, Until::Number(number)).await;
}

fn text(families: &[(&str, Vec<Case<'_>>)]) -> String {
    let mut text = format!(
        "## Growth\n\n\
         Advancing `mark_read`, calls a second, medians of rounds taken in turn. {READERS} readers \
         make the calls for the first table,\n{MANY_READERS} for the others. Each marks up to ten \
         of its conversations in turn. So the server knows the users in all\ncases, and only what \
         is stored differs. The target for last / first is at least 0.9.\n"
    );
    for (name, cases) in families {
        let [first, .., last] = &cases[..] else { unreachable!() };
        let ratio = median(&last.per_second) / median(&first.per_second);
        let amounts = cases.iter().map(|case| thousands(case.amount));
        let calls = cases.iter().map(|case| thousands(median(&case.per_second) as u64));
        let redis_us = cases.iter().map(|case| format!("{:.1}", median(&case.redis_us)));
        let verdict = Bound::AtLeast(0.9).verdict(ratio);
        let _ = write!(
            text,
            "\n| {name} | {} | last / first | |\n|{}\n| calls/s | {} | {ratio:.2} | {verdict} |\n\
             | CPU of Redis, µs a call | {} | | |\n",
            amounts.collect::<Vec<_>>().join(" | "),
            " --- |".repeat(cases.len() + 3),
            calls.collect::<Vec<_>>().join(" | "),
            redis_us.collect::<Vec<_>>().join(" | "),
        );
    }
    text
}
