//! Latencies at even paces, the rounds of which take turns.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use h2::RecvStream;
use http::Response;
use markread::proto::WatchMarkReadEventsResponse;
use markread::proto::watch_mark_read_events_response::Update;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::figures::{Measured, median};
use crate::load::{Calls, Connections, micros, permille};
use crate::paced::{Paced, Schedule, generate, send};
use crate::rounds::{CONNECTIONS, Workload};
use crate::workloads::{self, ADVANCING, NOOP, STATE};

/// Workloads at all paces; the others are measured at half of their peak.
const IN_FULL: [&str; 3] = [NOOP, ADVANCING, STATE];

/// Fixed paces, in calls a second. Those above half of the peak are left out.
const FIXED: [f64; 2] = [1000.0, 10_000.0];

/// The shares of late calls above which p99 and p99.9 are not the server's: half of the calls that are
/// slower.
pub(crate) const BELIEVED: [f64; 2] = [0.005, 0.0005];

/// The time for the last events after the last mark.
const EVENTS_LIMIT: Duration = Duration::from_secs(20);

/// A pace, as the report names it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    Fixed(f64),
    Quarter,
    /// A quarter of the peak of `mark_read`.
    QuarterOfMarks,
    Half,
}

impl Pace {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Quarter => "25 % of its peak",
            Self::QuarterOfMarks => "25 % of mark_read's peak",
            Self::Half => "50 % of its peak",
        }
    }
}

/// The latencies of a workload at a pace.
pub(crate) struct Latency {
    pub(crate) name: &'static str,
    pub(crate) pace: Pace,
    pub(crate) per_second: f64,
    /// p50, p99 and p99.9 of each round.
    percentiles_us: Vec<[f64; 3]>,
    /// The share of calls that were sent late in each round.
    late: Vec<f64>,
    /// The p99 of the delay after which calls were sent, of each round.
    lateness_us: Vec<f64>,
}

impl Latency {
    /// p50, p99 and p99.9: the medians of the rounds.
    pub(crate) fn percentiles_us(&self) -> [f64; 3] {
        [0, 1, 2].map(|of| {
            let all: Vec<f64> = self.percentiles_us.iter().map(|round| round[of]).collect();
            median(&all)
        })
    }

    pub(crate) fn late(&self) -> f64 {
        median(&self.late)
    }

    /// The p99 of the delay after which calls were sent.
    pub(crate) fn lateness_us(&self) -> f64 {
        median(&self.lateness_us)
    }

    fn add(&mut self, paced: &Paced) {
        self.percentiles_us.push(paced.percentiles_us());
        self.late.push(paced.late());
        self.lateness_us.push(permille(&paced.lateness_us, 990));
    }
}

/// A measurement: the latency of a workload's calls, or of the events of its marks.
struct Case<'a> {
    workload: &'a Workload,
    of_events: bool,
    latency: Latency,
}

pub(crate) async fn measure(
    rounds: u64,
    lasts: Duration,
    workloads: &[Workload],
    measured: &[Measured],
) -> Vec<Latency> {
    let mut cases = cases(workloads, measured);
    for round in 1..=rounds {
        println!("latency: round {round} of {rounds}");
        for case in &mut cases {
            let (address, calls) = (case.workload.address.clone(), case.workload.calls.clone());
            let per_second = case.latency.per_second;
            let paced = if case.of_events {
                generate(async move || events(&address, &calls, per_second, lasts).await).await
            } else {
                generate(async move || {
                    let connections = Connections::open(&address, CONNECTIONS).await;
                    send(&connections, &calls, per_second, lasts, |_| ()).await
                })
                .await
            };
            case.latency.add(&paced);
        }
    }
    cases.into_iter().map(|case| case.latency).collect()
}

fn cases<'a>(workloads: &'a [Workload], measured: &[Measured]) -> Vec<Case<'a>> {
    let peak = |name| {
        let measured = measured.iter().find(|measured| measured.name == name);
        measured.map_or(0.0, Measured::per_second)
    };
    let fixed = |name| FIXED.into_iter().filter(move |pace| *pace <= peak(name) / 2.0);
    let mut cases = Vec::new();
    let mut add = |workload, name, of_events, pace| {
        let per_second = match pace {
            Pace::Fixed(per_second) => per_second,
            Pace::Quarter => peak(name) / 4.0,
            Pace::QuarterOfMarks => peak(ADVANCING) / 4.0,
            Pace::Half => peak(name) / 2.0,
        };
        let (percentiles_us, late, lateness_us) = Default::default();
        let latency = Latency { name, pace, per_second, percentiles_us, late, lateness_us };
        cases.push(Case { workload, of_events, latency });
    };
    for workload in workloads {
        let name = workload.calls.name;
        if IN_FULL.contains(&name) {
            for per_second in fixed(name) {
                add(workload, name, false, Pace::Fixed(per_second));
            }
            if name == NOOP {
                add(workload, name, false, Pace::QuarterOfMarks);
            }
            add(workload, name, false, Pace::Quarter);
        }
        add(workload, name, false, Pace::Half);
        if name == ADVANCING {
            let events = "event at a watcher";
            for per_second in fixed(name) {
                add(workload, events, true, Pace::Fixed(per_second));
            }
        }
    }
    cases
}

/// Makes marks that advance, and measures when watchers on another connection receive their events.
/// Each mark has one: all recipients watch, and no reader does.
async fn events(address: &str, marks: &Arc<Calls>, per_second: f64, lasts: Duration) -> Paced {
    let watching = Connections::open(address, 1).await;
    let watches = workloads::recipients_watching();
    let capacity = (per_second * lasts.as_secs_f64()) as usize;
    let received = Arc::new(Mutex::new(Vec::with_capacity(capacity)));
    let mut reading = JoinSet::new();
    for turn in 0..workloads::CONVERSATIONS as usize {
        let mut updates = watching.begin(&watches, turn).await;
        // The first update says that the watch is open.
        assert!(updates.body_mut().data().await.is_some_and(|data| data.is_ok()), "{updates:?}");
        reading.spawn(read(updates, Arc::clone(&received)));
    }
    let connections = Connections::open(address, CONNECTIONS).await;
    let mut schedule = None;
    let paced = send(&connections, marks, per_second, lasts, |told| schedule = Some(told)).await;
    let sent = paced.lateness_us.len();
    let all = timeout(EVENTS_LIMIT, async {
        while received.lock().unwrap().len() < sent {
            sleep(Duration::from_millis(10)).await;
        }
    });
    all.await.expect("watchers receive an event of each mark");
    let schedule: Schedule = schedule.expect("it was told");
    let mut latencies_us: Vec<u32> = received
        .lock()
        .unwrap()
        .iter()
        .map(|&(message, at): &(u64, Instant)| {
            let due = schedule.due(workloads::number_of_message(message));
            micros(at.saturating_duration_since(due))
        })
        .collect();
    latencies_us.sort_unstable();
    Paced { latencies_us, ..paced }
}

/// Reads a watcher's updates until its connection ends.
async fn read(mut updates: Response<RecvStream>, received: Arc<Mutex<Vec<(u64, Instant)>>>) {
    const HEAD_BYTES: usize = 5;
    let body = updates.body_mut();
    let mut buffer = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let at = Instant::now();
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while let Some(length) = buffer.get(1..HEAD_BYTES) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if buffer.len() < HEAD_BYTES + length {
                break;
            }
            buffer.advance(HEAD_BYTES);
            let update = WatchMarkReadEventsResponse::decode(buffer.split_to(length)).unwrap();
            match update.update.unwrap() {
                Update::Event(event) => {
                    received.lock().unwrap().push((event.last_read_event_id, at));
                }
                Update::Heartbeat(_) => {}
                Update::Gap(gap) => panic!("a watcher missed events: {gap:?}"),
            }
        }
    }
}
